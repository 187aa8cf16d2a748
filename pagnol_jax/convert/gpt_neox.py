"""GPT-NeoX (Black et al. 2022, Pythia): rotary positions on a part of each head, fused qkv, two norms."""

from pagnol_jax.convert import architecture as arch
from pagnol_jax.convert.table import SAME, Row, norm
from pagnol_jax.errors import UserError
from pagnol_jax.models import positions
from pagnol_jax.models.config import GPTConfig

HEAD = "embed_out.weight"  # newer versions say 'lm_head', and read both


def _read(fields: arch.Fields) -> GPTConfig:
    arch.refuse(fields, "attention_bias", False)
    rope = arch.read_rope(fields)
    base = rope.get("rope_theta") or rope.get("rotary_emb_base", 10_000)
    fraction = rope.get("partial_rotary_factor") or rope.get("rotary_pct", 0.25)
    config = GPTConfig(
        vocab_size=arch.first(fields, "vocab_size"),
        num_layers=arch.first(fields, "num_hidden_layers"),
        d_model=arch.first(fields, "hidden_size"),
        num_heads=arch.first(fields, "num_attention_heads"),
        d_ff=arch.first(fields, "intermediate_size"),
        max_length=fields.get("max_position_embeddings", 2048),
        position=positions.rotary(base=float(base), fraction=float(fraction)),
        activation=arch.read_activation(fields.get("hidden_act", "gelu")),
        norm_epsilon=fields.get("layer_norm_eps", 1e-5),
        parallel=fields.get("use_parallel_residual", True),
        dropout_rate=fields.get("hidden_dropout", 0.0),
    )
    if not _even(config):
        raise UserError(f"config.json turns an odd number of the {config.head_dim} dimensions of a head")
    return config


def _even(config: GPTConfig) -> bool:
    return int(config.head_dim * (arch.option(config, "fraction") or 0)) % 2 == 0


def _write(config: GPTConfig) -> arch.Fields:
    return {
        "num_hidden_layers": config.num_layers,
        "hidden_size": config.d_model,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.feed_forward,
        "max_position_embeddings": config.max_length,
        "rotary_emb_base": arch.option(config, "base"),
        "rotary_pct": arch.option(config, "fraction"),
        "hidden_act": arch.ACTIVATION_NAMES[config.activation],
        "layer_norm_eps": config.norm_epsilon,
        "use_parallel_residual": config.parallel,
        "hidden_dropout": config.dropout_rate,
        "attention_dropout": 0.0,
    }


def _rows(config: GPTConfig) -> list[Row]:
    block = "gpt_neox.layers.{layer}"
    return [
        Row("gpt_neox.embed_in.weight", ("token_embedding/embedding",), SAME),
        *norm(f"{block}.input_layernorm", "blocks/attention_norm"),
        *arch.megatron_projections(config, block, "attention"),
        *norm(f"{block}.post_attention_layernorm", "blocks/mlp_norm"),
        *norm("gpt_neox.final_layer_norm", "final_norm"),
        *arch.head(config, HEAD),
    ]


GPT_NEOX = arch.Architecture(
    name="GPTNeoXForCausalLM",
    model_type="gpt_neox",
    prefix="gpt_neox.",
    buffers=r"\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)$",
    head=HEAD,
    tied_by_default=False,
    needs=(
        ("rotary positions", lambda c: c.position.rotate is not None),
        ("an even number of turned dimensions", _even),
        ("two norms a block", lambda c: not c.shared_norm),
        arch.PRE_NORM,
        arch.MULTI_HEAD,
        arch.GELU,
        arch.BIASES,
        arch.NO_EMBEDDING_NORM,
    ),
    read=_read,
    write=_write,
    rows=_rows,
)
