"""GPT-2 (Radford et al. 2019) as `transformers` stores it: Conv1D weights are [in, out], like ours."""

from pagnol_jax.convert import architecture as arch
from pagnol_jax.convert.table import (
    SAME,
    Layout,
    Row,
    heads_in,
    linear,
    norm,
    qkv_blocks,
    weight_and_bias,
)
from pagnol_jax.models import positions
from pagnol_jax.models.config import GPTConfig


def _read(fields: arch.Fields) -> GPTConfig:
    arch.refuse(fields, "scale_attn_weights", False)
    arch.refuse(fields, "scale_attn_by_inverse_layer_idx", True)
    arch.refuse(fields, "add_cross_attention", True)
    return GPTConfig(
        vocab_size=arch.first(fields, "vocab_size"),
        num_layers=arch.first(fields, "n_layer", "num_hidden_layers"),
        d_model=arch.first(fields, "n_embd", "hidden_size"),
        num_heads=arch.first(fields, "n_head", "num_attention_heads"),
        d_ff=fields.get("n_inner"),
        max_length=arch.first(fields, "n_positions", "max_position_embeddings", "n_ctx"),
        position=positions.learned(),
        activation=arch.read_activation(fields.get("activation_function", "gelu_new")),
        norm_epsilon=fields.get("layer_norm_epsilon", 1e-5),
        dropout_rate=fields.get("resid_pdrop", 0.1),
    )


def _write(config: GPTConfig) -> arch.Fields:
    return {
        "n_layer": config.num_layers,
        "n_embd": config.d_model,
        "n_head": config.num_heads,
        "n_inner": config.d_ff,
        "n_positions": config.max_length,
        "activation_function": arch.ACTIVATION_NAMES[config.activation],
        "layer_norm_epsilon": config.norm_epsilon,
        "resid_pdrop": config.dropout_rate,
        "embd_pdrop": config.dropout_rate,
        "attn_pdrop": 0.0,
    }


def _as_it_is(layout: Layout) -> Layout:
    return layout


def _rows(config: GPTConfig) -> list[Row]:
    block = "transformer.h.{layer}"
    qkv = qkv_blocks(config)
    fused = tuple(f"blocks/attention/{name}" for name in ("query", "key", "value"))

    def conv1d(name: str, paths: tuple[str, ...], kernel: Layout = SAME, bias: Layout = SAME) -> list[Row]:
        return linear(weight_and_bias(f"{block}.{name}"), paths, kernel, bias, weight_order=_as_it_is)

    return [
        Row("transformer.wte.weight", ("token_embedding/embedding",), SAME),
        Row("transformer.wpe.weight", ("position_embedding/embedding",), SAME),
        *norm(f"{block}.ln_1", "blocks/attention_norm"),
        *conv1d("attn.c_attn", fused, qkv, qkv),
        *conv1d("attn.c_proj", ("blocks/attention/out",), heads_in(config)),
        *norm(f"{block}.ln_2", "blocks/mlp_norm"),
        *conv1d("mlp.c_fc", ("blocks/mlp/up",)),
        *conv1d("mlp.c_proj", ("blocks/mlp/down",)),
        *norm("transformer.ln_f", "final_norm"),
        *arch.head(config, arch.HEAD),
    ]


GPT2 = arch.Architecture(
    name="GPT2LMHeadModel",
    model_type="gpt2",
    prefix="transformer.",
    buffers=r"\.attn\.(bias|masked_bias)$",
    head=arch.HEAD,
    tied_by_default=True,
    needs=(
        arch.LEARNED,
        arch.SEQUENTIAL,
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
