"""The shape of a GPT, and what follows from it: parameters, FLOPs, JSON."""

import dataclasses
from typing import Any

from pagnol_jax.errors import UserError
from pagnol_jax.models import activations, positions


@dataclasses.dataclass(frozen=True)
class GPTConfig:
    """A decoder-only transformer with pre-LayerNorm (Radford et al. 2019), and its variants.

    `post_norm`: norms after the residuals, and none at the end (Vaswani et al. 2017).

    `num_kv_heads` from 1 (multi-query) over its divisors to `num_heads` (multi-head; the default).
    `d_ff` defaults to 4 * d_model, or the parameter-matched width of a gated activation.
    `parallel`: attention and feed-forward read the same input (GPT-NeoX, Falcon); with `shared_norm` through one norm.
    `vocab_multiple`: tables and head have rows up to a multiple of this, which no token uses: 128 fills a TPU's lanes
    and divides over a mesh whatever the tokenizer.
    `unroll`: layers per iteration of the scan over layers; `num_layers` at once is faster on CPU, 1 compiles fastest.
    `remat`: None keeps every activation, 'full' recomputes blocks, 'dots' keeps only matrix products
    and attention.
    `fold_norms`: the scale and shift of a block's norms are multiplied into the weights that read them, which spares a
    rule that cuts the layers a product per norm (and costs any other a product of weights).
    `attention`: a name in `kernels.KERNELS`; 'auto' is the fused kernel of the accelerator, 'plain' runs anywhere.
    """

    vocab_size: int
    num_layers: int
    d_model: int
    num_heads: int
    num_kv_heads: int | None = None
    d_ff: int | None = None
    max_length: int = 1024
    position: positions.Position = dataclasses.field(default_factory=positions.learned)
    activation: activations.Activation = dataclasses.field(default_factory=activations.gelu)
    embedding_norm: bool = False
    tie_embeddings: bool = False
    use_bias: bool = True
    attention_bias: bool | None = None
    norm_bias: bool = True
    norm_epsilon: float = 1e-5
    parallel: bool = False
    shared_norm: bool = False
    post_norm: bool = False
    dropout_rate: float = 0.0
    init_stddev: float = 0.02
    dtype: str = "float32"
    vocab_multiple: int = 1
    unroll: int = 1
    remat: str | None = None
    fold_norms: bool = False
    attention: str = "auto"

    def __post_init__(self) -> None:
        if self.d_model % self.num_heads:
            raise UserError(f"d_model {self.d_model} is not a multiple of num_heads {self.num_heads}")
        if self.num_heads % self.kv_heads:
            raise UserError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.kv_heads}")
        if self.shared_norm and not self.parallel:
            raise UserError("shared_norm needs a parallel block: a sequential block has two norms")
        if self.post_norm and self.parallel:
            raise UserError("post_norm needs a sequential block: a parallel one has nothing between its norms")

    @property
    def head_dim(self) -> int:
        return self.d_model // self.num_heads

    @property
    def kv_heads(self) -> int:
        return self.num_kv_heads or self.num_heads

    @property
    def padded_vocab(self) -> int:
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple

    @property
    def feed_forward(self) -> int:
        return self.d_ff or self.activation.width(self.d_model)

    @property
    def qkv_bias(self) -> bool:
        return self.use_bias if self.attention_bias is None else self.attention_bias

    def parameters(self, embedding: bool = True) -> int:
        """Number of parameters without padding; without `embedding`, neither token and position tables nor the head
        are counted (Kaplan et al. 2020, section 2.1)."""
        d, f, kv = self.d_model, self.feed_forward, self.kv_heads * self.head_dim
        norm = d * (1 + self.norm_bias)
        attention = 2 * d * d + 2 * d * kv + (2 * d + 2 * kv) * self.qkv_bias
        mlp = (2 + self.activation.gated) * d * f + ((1 + self.activation.gated) * f + d) * self.use_bias
        norms = self.num_layers * (1 if self.shared_norm else 2) + (not self.post_norm)
        blocks = self.num_layers * (attention + mlp) + norms * norm
        tables = self.vocab_size * d * (1 if self.tie_embeddings else 2)
        tables += self.max_length * d * self.position.learned + norm * self.embedding_norm
        return blocks + tables * embedding

    def matmul_parameters(self, embedding: bool = True) -> int:
        """Weights that multiply every token: block matrices, and with `embedding` the vocabulary projection."""
        d, kv = self.d_model, self.kv_heads * self.head_dim
        block = 2 * d * d + 2 * d * kv + (2 + self.activation.gated) * d * self.feed_forward
        return self.num_layers * block + self.vocab_size * d * embedding

    def flops_per_token(self, embedding: bool = True, attention_length: int = 0) -> int:
        """Training FLOPs per token: 6 N of the matrix weights, plus 12 L d T for scores and values over
        `attention_length` T keys (Kaplan et al. 2020, table 1; not halved for causality; 0 leaves attention out)."""
        return 6 * self.matmul_parameters(embedding) + 12 * self.num_layers * self.d_model * attention_length

    def sharded_sizes(self) -> dict[str, tuple[str, int]]:
        """{logical axis: (name, size)} that a mesh has to divide. Key and value heads are not among them: where
        they do not divide they are replicated, as multi-query attention needs."""
        return {
            "vocab": ("vocab_size", self.padded_vocab),
            "layers": ("num_layers", self.num_layers),
            "mlp": ("d_ff", self.feed_forward),
            "heads": ("num_heads", self.num_heads),
            "embed": ("d_model", self.d_model),
        }

    def to_json(self) -> dict[str, Any]:
        """Plain values only: schemes and activations become names with options."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        fields["position"] = {"name": self.position.name, **dict(self.position.options)}
        fields["activation"] = self.activation.name
        return fields

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "GPTConfig":
        """Inverse of `to_json`. Raises UserError on unknown fields or names."""
        fields = dict(fields)
        try:
            scheme = dict(fields["position"])
            fields["position"] = positions.SCHEMES[scheme.pop("name")](**scheme)
            fields["activation"] = activations.ACTIVATIONS[fields["activation"]]()
            return cls(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"not a model configuration: {error}") from error
