"""A Hugging Face architecture as a value: what it can express, its configuration, its table."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from pagnol_jax.convert.table import (
    SAME,
    Layout,
    Row,
    heads_in,
    linear,
    qkv_groups,
    transposed,
    weight_and_bias,
)
from pagnol_jax.errors import UserError
from pagnol_jax.models import activations
from pagnol_jax.models.activations import Activation
from pagnol_jax.models.config import GPTConfig

Fields = dict[str, Any]


class Architecture(NamedTuple):
    """One class of `transformers`.

    name, model_type: as config.json has them.
    prefix: of every name but the head's; some published checkpoints leave it out.
    head: name of the vocabulary projection.
    buffers: pattern of the tensors that hold no parameter.
    needs: (what a model must have to be exported, whether a configuration has it).
    read: config.json -> GPTConfig; write: GPTConfig -> config.json without what all architectures share.
    rows: the table, for one configuration.
    """

    name: str
    model_type: str
    prefix: str
    buffers: str
    head: str
    tied_by_default: bool
    needs: tuple[tuple[str, Callable[[GPTConfig], bool]], ...]
    read: Callable[[Fields], GPTConfig]
    write: Callable[[GPTConfig], Fields]
    rows: Callable[[GPTConfig], list[Row]]


HEAD = "lm_head.weight"

_ACTIVATIONS = {
    "gelu": activations.gelu(),
    "gelu_python": activations.gelu(),
    "gelu_new": activations.gelu_tanh(),
    "gelu_fast": activations.gelu_tanh(),
    "gelu_pytorch_tanh": activations.gelu_tanh(),
}
ACTIVATION_NAMES = {activations.gelu(): "gelu", activations.gelu_tanh(): "gelu_new"}

SEQUENTIAL = ("blocks in sequence", lambda c: not c.parallel)
PRE_NORM = ("norms ahead of the layers", lambda c: not c.post_norm)
MULTI_HEAD = ("as many key heads as query heads", lambda c: c.kv_heads == c.num_heads)
GELU = ("GELU", lambda c: c.activation in ACTIVATION_NAMES)
BIASES = ("biases everywhere", lambda c: c.use_bias and c.qkv_bias and c.norm_bias)
NO_EMBEDDING_NORM = ("no embedding norm", lambda c: not c.embedding_norm)
LEARNED = ("learned positions", lambda c: c.position.learned)


def read_activation(name: str) -> Activation:
    """Raises UserError for one that no model of ours has."""
    if name not in _ACTIVATIONS:
        raise UserError(f"activation {name!r} is none of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def read_rope(fields: Fields) -> Fields:
    """The rotary options, wherever this version of the file keeps them. Raises UserError for scaled ones."""
    rope = dict(fields.get("rope_parameters") or fields.get("rope_scaling") or {})
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise UserError(f"rotary positions of type {kind!r} are not supported, only the plain ones")
    return {**fields, **rope}


def first(fields: Fields, *names: str) -> Any:
    """The value of the first of several synonyms. Raises UserError where config.json has none of them."""
    for name in names:
        if fields.get(name) is not None:
            return fields[name]
    raise UserError(f"config.json has no {names[0]}")


def refuse(fields: Fields, name: str, value: Any) -> None:
    """Raises UserError where a field has a value that changes the mathematics beyond our model."""
    if fields.get(name) == value:
        raise UserError(f"config.json has {name} = {value!r}, which this model cannot express")


def head(config: GPTConfig, name: str) -> list[Row]:
    """The vocabulary projection, unless it is the embedding."""
    return [] if config.tie_embeddings else [Row(name, ("head",), transposed(SAME))]


def megatron_projections(config: GPTConfig, block: str, attention: str) -> list[Row]:
    """The four projections of a block by Megatron-LM's names (GPT-NeoX, BLOOM, Falcon)."""
    qkv = qkv_groups(config)

    def dense(name: str, ours: tuple[str, ...], kernel: Layout = SAME, bias: Layout = SAME) -> list[Row]:
        paths = tuple(f"blocks/{path}" for path in ours)
        return linear(weight_and_bias(f"{block}.{name}"), paths, kernel, bias if config.use_bias else None)

    fused = ("attention/query", "attention/key", "attention/value")
    return [
        *dense(f"{attention}.query_key_value", fused, qkv, qkv),
        *dense(f"{attention}.dense", ("attention/out",), heads_in(config)),
        *dense("mlp.dense_h_to_4h", ("mlp/up",)),
        *dense("mlp.dense_4h_to_h", ("mlp/down",)),
    ]


def option(config: GPTConfig, name: str) -> Any:
    """An option of the position scheme, None where it has no such option."""
    return dict(config.position.options).get(name)


def is_alibi(config: GPTConfig, scale: float) -> bool:
    return config.position.slopes is not None and math.isclose(option(config, "scale"), scale)
