"""Falcon (Almazrouei et al. 2023; RW models: Penedo et al. 2023) in its forms.

Rotary positions, or ALiBi added before the scores are scaled (so by 1/sqrt(head_dim)); blocks in sequence
with two norms, or parallel with one; `new_decoder_architecture`: parallel, grouped heads, one norm or two.
"""

from pagnol_jax.convert import architecture as arch
from pagnol_jax.convert.table import SAME, Row, norm
from pagnol_jax.errors import UserError
from pagnol_jax.models import positions
from pagnol_jax.models.config import GPTConfig


def _read(fields: arch.Fields) -> GPTConfig:
    heads, width = arch.first(fields, "num_attention_heads", "n_head"), arch.first(fields, "hidden_size")
    new = bool(fields.get("new_decoder_architecture", False))
    parallel = bool(fields.get("parallel_attn", True))
    norms = fields.get("num_ln_in_parallel_attn") or (2 if new else 1)
    if (new and not parallel) or (parallel and not new and norms == 2):
        raise UserError("config.json mixes the two Falcon architectures in a way that `transformers` cannot run")
    old_kv_heads = 1 if fields.get("multi_query", True) else heads
    rope = arch.read_rope(fields)
    bias = bool(fields.get("bias", False))
    rotary = positions.rotary(base=float(rope.get("rope_theta", 10_000.0)))
    return GPTConfig(
        vocab_size=arch.first(fields, "vocab_size"),
        num_layers=arch.first(fields, "num_hidden_layers", "n_layer"),
        d_model=width,
        num_heads=heads,
        num_kv_heads=(fields.get("num_kv_heads") or heads) if new else old_kv_heads,
        d_ff=fields.get("ffn_hidden_size"),
        max_length=fields.get("max_position_embeddings", 2048),
        position=positions.alibi(scale=(width // heads) ** -0.5) if fields.get("alibi") else rotary,
        activation=arch.read_activation(fields.get("activation", "gelu")),
        use_bias=bias,
        norm_epsilon=fields.get("layer_norm_epsilon", 1e-5),
        parallel=parallel,
        shared_norm=parallel and norms == 1,
        dropout_rate=fields.get("hidden_dropout", 0.0),
    )


def _is_new(config: GPTConfig) -> bool:
    old_heads = config.kv_heads in (1, config.num_heads)
    return config.parallel and not (config.shared_norm and old_heads)


def _write(config: GPTConfig) -> arch.Fields:
    return {
        "num_hidden_layers": config.num_layers,
        "hidden_size": config.d_model,
        "num_attention_heads": config.num_heads,
        "num_kv_heads": config.kv_heads,
        "multi_query": config.kv_heads == 1,
        "new_decoder_architecture": _is_new(config),
        "parallel_attn": config.parallel,
        "num_ln_in_parallel_attn": 1 if config.shared_norm else 2 if config.parallel else None,
        "ffn_hidden_size": config.feed_forward,
        "max_position_embeddings": config.max_length,
        "alibi": config.position.slopes is not None,
        "rope_theta": arch.option(config, "base") or 10_000.0,
        "activation": arch.ACTIVATION_NAMES[config.activation],
        "bias": config.use_bias,
        "layer_norm_epsilon": config.norm_epsilon,
        "hidden_dropout": config.dropout_rate,
        "attention_dropout": 0.0,
    }


def _norms(config: GPTConfig, block: str) -> list[Row]:
    two = _is_new(config) and not config.shared_norm
    first, second = ("ln_attn", "ln_mlp") if two else ("input_layernorm", "post_attention_layernorm")
    rows = norm(f"{block}.{first}", "blocks/attention_norm")
    return rows if config.shared_norm else rows + norm(f"{block}.{second}", "blocks/mlp_norm")


def _rows(config: GPTConfig) -> list[Row]:
    block = "transformer.h.{layer}"
    return [
        Row("transformer.word_embeddings.weight", ("token_embedding/embedding",), SAME),
        *_norms(config, block),
        *arch.megatron_projections(config, block, "self_attention"),
        *norm("transformer.ln_f", "final_norm"),
        *arch.head(config, arch.HEAD),
    ]


def _has_positions(config: GPTConfig) -> bool:
    whole = config.position.rotate is not None and arch.option(config, "fraction") == 1
    return whole or arch.is_alibi(config, config.head_dim**-0.5)


def _has_heads(config: GPTConfig) -> bool:
    return config.parallel or config.kv_heads in (1, config.num_heads)


FALCON = arch.Architecture(
    name="FalconForCausalLM",
    model_type="falcon",
    prefix="transformer.",
    buffers=r"rotary_emb\.inv_freq$",
    head=arch.HEAD,
    tied_by_default=True,
    needs=(
        ("rotary positions on whole heads, or ALiBi scaled by 1/sqrt(head_dim)", _has_positions),
        ("grouped heads in parallel blocks alone", _has_heads),
        arch.PRE_NORM,
        arch.GELU,
        ("biases on all projections or none", lambda c: c.use_bias == c.qkv_bias),
        ("norms with biases", lambda c: c.norm_bias),
        arch.NO_EMBEDDING_NORM,
    ),
    read=_read,
    write=_write,
    rows=_rows,
)
