"""LairGPT's `.pt` state dictionary (Launay et al. 2022): torch's MultiheadAttention, learned positions, an
untied projection. The public code has no rotary positions, so its XL cannot be written in this format."""

from pathlib import Path

import numpy as np

from pagnol_jax.convert import architecture as arch
from pagnol_jax.convert import table, tensors
from pagnol_jax.convert.table import (
    SAME,
    Row,
    heads_in,
    linear,
    norm,
    qkv_blocks,
    transposed,
    weight_and_bias,
)
from pagnol_jax.errors import UserError
from pagnol_jax.models import activations, positions, store
from pagnol_jax.models.config import GPTConfig

HEADS_BY_WIDTH = {768: 12, 1024: 16, 1280: 20, 1600: 25}  # table 3
DROPOUT = 0.1

_EMBEDDING, _POSITIONS, _BUFFER = (
    "embedding.weight",
    "positional_encoder.wpe.weight",
    "positional_encoder.position_ids",
)

_NEEDS = (
    arch.LEARNED,
    arch.SEQUENTIAL,
    arch.PRE_NORM,
    arch.MULTI_HEAD,
    arch.BIASES,
    arch.NO_EMBEDDING_NORM,
    ("exact GELU", lambda c: c.activation == activations.gelu()),
    ("an untied head", lambda c: not c.tie_embeddings),
    ("a feed-forward of 4 d_model", lambda c: c.feed_forward == 4 * c.d_model),
    ("a norm epsilon of 1e-5", lambda c: c.norm_epsilon == 1e-5),
)


def read(path: str | Path, num_heads: int | None = None) -> tuple[GPTConfig, store.Params]:
    """(configuration, parameters). The file does not tell the number of heads: where the width is none of
    PAGnol's, `num_heads` must. Raises UserError where the file is not a LairGPT state dictionary."""
    found = tensors.read_torch(Path(path))
    found.pop(_BUFFER, None)
    try:
        config = infer_config(found, num_heads)
        return config, table.to_ours(rows(config), found, config)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def write(path: str | Path, config: GPTConfig, params: store.Params) -> None:
    """Writes what LairGPT's `load_state_dict` takes. Raises UserError where LairGPT has no such model."""
    for need, met in _NEEDS:
        if not met(config):
            raise UserError(f"LairGPT cannot express this model: it needs {need}")
    weights = table.to_theirs(rows(config), params, config)
    weights[_BUFFER] = np.arange(config.max_length, dtype=np.int64)[None]
    tensors.write_torch(Path(path), weights)


def infer_config(found: store.Flat, num_heads: int | None = None) -> GPTConfig:
    """The configuration that the shapes tell. Raises UserError where they tell none."""
    for name in (_EMBEDDING, _POSITIONS):
        if name not in found or found[name].ndim != 2:
            raise UserError(f"not a LairGPT state dictionary: no matrix {name}")
    vocab_size, d_model = found[_EMBEDDING].shape
    heads = num_heads or HEADS_BY_WIDTH.get(d_model)
    if heads is None:
        raise UserError(f"the number of heads of a model of width {d_model} is unknown: give --num_heads")
    layers = {name.split(".")[1] for name in found if name.startswith("layers.")}
    return GPTConfig(
        vocab_size=vocab_size,
        num_layers=len(layers),
        d_model=d_model,
        num_heads=heads,
        max_length=found[_POSITIONS].shape[0],
        position=positions.learned(),
        activation=activations.gelu(),
        dropout_rate=DROPOUT,
    )


def rows(config: GPTConfig) -> list[Row]:
    """The table."""
    block, qkv = "layers.{layer}", qkv_blocks(config)
    attention = f"{block}.self_attention"
    fused = tuple(f"blocks/attention/{name}" for name in ("query", "key", "value"))
    return [
        Row(_EMBEDDING, ("token_embedding/embedding",), SAME),
        Row(_POSITIONS, ("position_embedding/embedding",), SAME),
        *norm(f"{block}.attn_norm", "blocks/attention_norm"),
        *linear((f"{attention}.in_proj_weight", f"{attention}.in_proj_bias"), fused, qkv, qkv),
        *linear(weight_and_bias(f"{attention}.out_proj"), ("blocks/attention/out",), heads_in(config)),
        *norm(f"{block}.mlp_norm", "blocks/mlp_norm"),
        *linear(weight_and_bias(f"{block}.mlp.0"), ("blocks/mlp/up",)),
        *linear(weight_and_bias(f"{block}.mlp.2"), ("blocks/mlp/down",)),
        *norm("final_norm", "final_norm"),
        Row("projector.weight", ("head",), transposed(SAME)),
    ]
