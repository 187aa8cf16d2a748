"""BLOOM (Le Scao et al. 2022): ALiBi, a norm after the embedding, fused qkv by head, GELU by tanh."""

from pagnol_jax.convert import architecture as arch
from pagnol_jax.convert.table import SAME, Row, norm
from pagnol_jax.models import activations, positions
from pagnol_jax.models.config import GPTConfig


def _read(fields: arch.Fields) -> GPTConfig:
    arch.refuse(fields, "apply_residual_connection_post_layernorm", True)
    return GPTConfig(
        vocab_size=arch.first(fields, "vocab_size"),
        num_layers=arch.first(fields, "n_layer", "num_hidden_layers"),
        d_model=arch.first(fields, "hidden_size", "n_embed"),
        num_heads=arch.first(fields, "n_head", "num_attention_heads"),
        max_length=fields.get("seq_length", 2048),
        position=positions.alibi(),
        activation=activations.gelu_tanh(),
        embedding_norm=True,
        norm_epsilon=fields.get("layer_norm_epsilon", 1e-5),
        dropout_rate=fields.get("hidden_dropout", 0.0),
    )


def _write(config: GPTConfig) -> arch.Fields:
    return {
        "n_layer": config.num_layers,
        "hidden_size": config.d_model,
        "n_head": config.num_heads,
        "seq_length": config.max_length,
        "layer_norm_epsilon": config.norm_epsilon,
        "hidden_dropout": config.dropout_rate,
        "attention_dropout": 0.0,
    }


def _rows(config: GPTConfig) -> list[Row]:
    block = "transformer.h.{layer}"
    return [
        Row("transformer.word_embeddings.weight", ("token_embedding/embedding",), SAME),
        *norm("transformer.word_embeddings_layernorm", "embedding_norm"),
        *norm(f"{block}.input_layernorm", "blocks/attention_norm"),
        *arch.megatron_projections(config, block, "self_attention"),
        *norm(f"{block}.post_attention_layernorm", "blocks/mlp_norm"),
        *norm("transformer.ln_f", "final_norm"),
        *arch.head(config, arch.HEAD),
    ]


BLOOM = arch.Architecture(
    name="BloomForCausalLM",
    model_type="bloom",
    prefix="transformer.",
    buffers=r"$^",
    head=arch.HEAD,
    tied_by_default=True,
    needs=(
        ("ALiBi with slopes unscaled", lambda c: arch.is_alibi(c, 1.0)),
        ("an embedding norm", lambda c: c.embedding_norm),
        arch.SEQUENTIAL,
        arch.PRE_NORM,
        arch.MULTI_HEAD,
        ("GELU by tanh", lambda c: c.activation == activations.gelu_tanh()),
        ("a feed-forward of 4 d_model", lambda c: c.feed_forward == 4 * c.d_model),
        arch.BIASES,
    ),
    read=_read,
    write=_write,
    rows=_rows,
)
