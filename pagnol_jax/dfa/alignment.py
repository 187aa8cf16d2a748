"""How far the signals of a rule point where backpropagation's do, and how large the activations are."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from pagnol_jax.dfa.cuts import Cuts, named
from pagnol_jax.dfa.gradient import meetings, under
from pagnol_jax.dfa.rules import Rule, backprop
from pagnol_jax.dfa.select import Where
from pagnol_jax.errors import UserError


class Alignment(NamedTuple):
    """Cosines between a rule's signals and backpropagation's at a module's output, over samples.

    mean, std, counted: float32, of shape [*stack] (one entry per layer under `nn.scan`). A sample for which either
    signal is zero throughout (padding, a node without labels) has no angle and is not counted.
    """

    mean: jax.Array
    std: jax.Array
    counted: jax.Array


def alignment(fun: Callable[..., Any], rule: Rule, matrices: Any, at: Where | None = None) -> Callable[..., Any]:
    """(params, *args) -> {module path: Alignment} at the outputs of the modules `at`, by default the taps.

    fun: (params, *args) -> a scalar loss. A sample is one element of the dimensions that error and taps share: a row, a
    node, a token. The measure of Launay et al. 2020 (tables A.1, A.2) without its traps: signals are scaled by
    their largest entry instead of being cut off below 1e-8, and empty samples do not count as aligned.
    """
    at = rule.taps if at is None else at

    def aligned(*args: Any) -> dict[str, Alignment]:
        found = meetings(fun, rule)(*args)
        if not found:
            raise UserError(f"rule {rule.name!r} sends no feedback: there is nothing to align with backpropagation")
        batch = len(found[0].taps[0].batch)
        ours, theirs = (signals(fun, r, matrices, at)(*args) for r in (rule, backprop()))
        ranks = _shapes(fun, at)(*args)[1]
        return {path: _cosines(a, theirs[path], a.ndim - ranks[_plain(path)], batch) for path, a in ours.items()}

    return aligned


def signals(fun: Callable[..., Any], rule: Rule, matrices: Any, at: Where) -> Callable[..., dict[str, jax.Array]]:
    """(params, *args) -> {module path: derivative of `fun` by the module's output}, [*stack, *shape of the output],
    as the rule has it."""

    def derivatives(*args: Any) -> dict[str, jax.Array]:
        shapes, _ = _shapes(fun, at)(*args)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        found = jax.grad(lambda probes: under(fun, rule, matrices, at, probes)(*args))(zeros)
        return _named(found)

    return derivatives


def rms(fun: Callable[..., Any], at: Where) -> Callable[..., dict[str, jax.Array]]:
    """(params, *args) -> {module path: root mean square of the module's output, [*stack]}: a residual stream that
    nothing holds back can explode under feedback."""

    def sizes(*args: Any) -> dict[str, jax.Array]:
        outputs, ranks = _outputs(fun, at)(*args)
        inner = {path: tuple(range(-rank, 0)) for path, rank in ranks.items()}
        return {path: jnp.sqrt((_wide(x) ** 2).mean(inner[_plain(path)])) for path, x in _named(outputs).items()}

    return sizes


def _outputs(fun: Callable[..., Any], at: Where) -> Callable[..., tuple[list[Any], dict[str, int]]]:
    """(params, *args) -> the modules' outputs as trees, one per network applied; {path: rank inside its scans}."""

    def outputs(*args: Any) -> tuple[list[Any], dict[str, int]]:
        with Cuts(backprop(), lambda name, error, taps: error, probe=at).made() as cuts:
            fun(*args)
        return cuts.seen, {named(tuple(path.split("/"))): rank for path, rank in cuts.ranks.items()}

    return outputs


def _shapes(fun: Callable[..., Any], at: Where) -> Callable[..., tuple[list[Any], dict[str, int]]]:
    """The same with shapes for outputs; nothing is computed."""

    def shapes(*args: Any) -> tuple[list[Any], dict[str, int]]:
        ranks: dict[str, int] = {}

        def traced(*args: Any) -> list[Any]:
            outputs, found = _outputs(fun, at)(*args)
            ranks.update(found)
            return outputs

        return jax.eval_shape(traced, *args), ranks

    return shapes


def _named(trees: list[Any]) -> dict[str, jax.Array]:
    """{path: array}, with #1, #2 for the networks after the first."""
    flat = [(i, flatten_dict(tree)) for i, tree in enumerate(trees)]
    return {named(path) + (f"#{i}" if i else ""): array for i, tree in flat for path, array in tree.items()}


def _plain(path: str) -> str:
    """Without the network's number."""
    return path.split("#", maxsplit=1)[0]


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32)


def _cosines(a: jax.Array, b: jax.Array, stack: int, batch: int) -> Alignment:
    """Of [*stack, *batch, *features] twice, over the batch."""
    shape = (*a.shape[:stack], -1, math.prod(a.shape[stack + batch :]))
    a, b = (_wide(x).reshape(shape) for x in (a, b))
    tops = [jnp.abs(x).max(-1, keepdims=True) for x in (a, b)]
    counted = ((tops[0] > 0) & (tops[1] > 0))[..., 0]
    a, b = (x / jnp.where(top > 0, top, 1) for x, top in zip((a, b), tops, strict=True))
    lengths = jnp.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    cosines = (a * b).sum(-1) / jnp.where(counted, lengths, 1)
    number = counted.sum(-1)
    mean = jnp.where(counted, cosines, 0).sum(-1) / jnp.maximum(number, 1)
    variance = jnp.where(counted, (cosines - mean[..., None]) ** 2, 0).sum(-1) / jnp.maximum(number, 1)
    return Alignment(mean, jnp.sqrt(variance), number.astype(jnp.float32))
