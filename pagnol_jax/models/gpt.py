"""The GPT: embeddings, a scan over blocks, a final norm and a vocabulary projection."""

import dataclasses
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from pagnol_jax.models.attention import Attention, Cache
from pagnol_jax.models.config import GPTConfig
from pagnol_jax.models.layers import Embedding, FeedForward, LayerNorm, padded, parameter
from pagnol_jax.models.masks import Mask
from pagnol_jax.sharding.rules import constrain

Carry = tuple[jax.Array, Cache | None]

# What a block keeps for its backward pass, by `GPTConfig.remat`.
REMAT_POLICIES: dict[str, Any] = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names("attention"),  # what a fused kernel needs for its gradient
    ),
}


class Residual(nn.Module):
    """stream + dropout(update), both [B, T, d_model]: a module of its own so that its output has a name."""

    config: GPTConfig

    @nn.compact
    def __call__(self, stream: jax.Array, update: jax.Array) -> jax.Array:
        return stream + nn.Dropout(self.config.dropout_rate, deterministic=not self.has_rng("dropout"))(update)


class Passed(nn.Module):
    """x, under a name."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return x


class Block(nn.Module):
    """One layer: x + attention + feed-forward, in sequence or in parallel, norms before or after."""

    config: GPTConfig

    @nn.compact
    def __call__(self, carry: Carry, layer: jax.Array, positions: jax.Array, mask: Mask) -> tuple[Carry, None]:
        c = self.config
        x, cache = carry
        fold = c.fold_norms and not c.post_norm
        attention_norm, mlp_norm = (LayerNorm(c, fold, name=name) for name in ("attention_norm", "mlp_norm"))
        normed = x if c.post_norm else attention_norm(x)
        attended, cache = Attention(c, name="attention")(normed, positions, mask, layer, cache)
        stream = Residual(c, name="attended")(x, attended)
        if c.post_norm:
            normed = stream = attention_norm(stream)
        elif not c.shared_norm:
            normed = mlp_norm(x if c.parallel else stream)
        out = Residual(c, name="out")(stream, FeedForward(c, name="mlp")(normed))
        out = mlp_norm(out) if c.post_norm else out
        return (constrain(out, "batch", "length", "embed"), cache), None


class GPT(nn.Module):
    """Decoder-only language model. Parameters are float32; blocks are stacked on a leading `layers` axis."""

    config: GPTConfig

    def setup(self) -> None:
        c = self.config
        padding = c.padded_vocab - c.vocab_size
        self.token_embedding = Embedding(c.vocab_size, c, padding=padding)
        if c.position.learned:
            self.position_embedding = Embedding(c.max_length, c, axes=(None, "embed"))
        if c.embedding_norm:
            self.embedding_norm = LayerNorm(c, name="embedding_norm")
        self.dropout = nn.Dropout(c.dropout_rate, deterministic=not self.has_rng("dropout"))
        self.blocks = self.stack()
        self.final_norm = Passed(name="final_norm") if c.post_norm else LayerNorm(c, name="final_norm")
        if not c.tie_embeddings:
            normal = padded(nn.initializers.normal(c.init_stddev), 1, padding)
            self.head = parameter(self, "head", ("embed", "vocab"), (c.d_model, c.padded_vocab), normal)

    def stack(self) -> Any:
        """The blocks as one module, (carry, layers [L], positions, mask) -> (carry, None)."""
        c = self.config
        block: Any = Block
        if c.remat:
            block = nn.remat(Block, policy=REMAT_POLICIES[c.remat], prevent_cse=c.unroll > 1)
        return nn.scan(
            block,
            variable_axes={True: 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast, nn.broadcast),
            length=c.num_layers,
            unroll=min(c.unroll, c.num_layers),
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(c)

    def features(
        self,
        tokens: jax.Array,
        positions: jax.Array | None = None,
        mask: Mask | None = None,
        cache: Cache | None = None,
    ) -> tuple[jax.Array, jax.Array, Cache | None]:
        """tokens [B, T] int -> (features [B, T, d_model], head [d_model, V] float32, cache with T more slots filled).

        The logits are `features @ head`, less the columns that pad the vocabulary; training never makes them whole
        (see `train.loss`).
        """
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        x = self.embed(tokens, positions)
        x, cache = self.body(x, positions, Mask() if mask is None else mask, cache)
        if cache is not None:
            cache = dataclasses.replace(cache, index=cache.index + tokens.shape[1])
        return *self.top(x), cache

    def embed(self, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        """tokens, positions [B, T] int -> what the first block reads [B, T, d_model]."""
        x = self.token_embedding(tokens)
        if self.config.position.learned:
            x = x + self.position_embedding(positions)
        if self.config.embedding_norm:
            x = self.embedding_norm(x)
        return constrain(self.dropout(x), "batch", "length", "embed")

    def body(self, x: jax.Array, positions: jax.Array, mask: Mask, cache: Cache | None = None) -> Carry:
        """All blocks: x [B, T, d_model] -> (the same, cache)."""
        return self.blocks((x, cache), jnp.arange(self.config.num_layers), positions, mask)[0]

    def top(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What the last block gives [B, T, d_model] -> (features [B, T, d_model], head [d_model, V] float32)."""
        head = self.token_embedding.head() if self.config.tie_embeddings else self.head
        return self.final_norm(x), head

    def __call__(self, tokens: jax.Array, positions: jax.Array | None = None, mask: Mask | None = None) -> jax.Array:
        """tokens [B, T] -> logits [B, T, V] in float32."""
        features, head, _ = self.features(tokens, positions, mask)
        return project(features, head)[..., : self.config.vocab_size]


def features(
    config: GPTConfig,
    params: Any,
    tokens: jax.Array,
    positions: jax.Array | None = None,
    mask: Mask | None = None,
    cache: Cache | None = None,
    dropout_key: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, Cache | None]:
    """`GPT.features` as a function of the parameters; a key switches dropout on."""
    rngs = {} if dropout_key is None else {"dropout": dropout_key}
    return cast(
        Any, GPT(config).apply({"params": params}, tokens, positions, mask, cache, rngs=rngs, method="features")
    )


def project(features: jax.Array, head: jax.Array) -> jax.Array:
    """features [..., d_model], head [d_model, V] -> float32 logits [..., V], multiplied in the dtype of features."""
    return jnp.matmul(features, head.astype(features.dtype), preferred_element_type=jnp.float32)


def unpadded(config: GPTConfig, params: Any) -> tuple[GPTConfig, Any]:
    """The same model without padding of its vocabulary."""
    tables = {"token_embedding": lambda x: {"embedding": x["embedding"][: config.vocab_size]}}
    tables["head"] = lambda x: x[:, : config.vocab_size]
    params = {name: tables[name](value) if name in tables else value for name, value in params.items()}
    return dataclasses.replace(config, vocab_multiple=1), params


def init(config: GPTConfig, key: jax.Array) -> Any:
    """Parameters, boxed with their logical axes (`nn.unbox` gives the arrays)."""
    return GPT(config).init(key, jnp.zeros((1, 1), jnp.int32))["params"]
