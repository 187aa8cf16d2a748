"""`value_and_grad` under a training rule, with the signature of `jax.value_and_grad`."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Literal, Var

from pagnol_jax.dfa import parallel
from pagnol_jax.dfa.cuts import Cuts, Meeting
from pagnol_jax.dfa.feedback import Tap
from pagnol_jax.dfa.rules import Rule
from pagnol_jax.dfa.select import Where, fits
from pagnol_jax.errors import UserError


def init(fun: Callable[..., Any], rule: Rule, key: jax.Array) -> Callable[..., Any]:
    """(params, *args) -> the feedback matrices of `rule` for networks that `fun(params, *args)` applies.

    A tree of float32 matrices boxed with their logical axes, {} where the rule has none; arguments may be abstract
    (`jax.ShapeDtypeStruct`). Raises UserError as `value_and_grad` does.
    """

    def matrices(*args: Any) -> Any:
        if rule.feedback is None:
            return {}
        found = meetings(fun, rule)(*args)
        keys = jax.random.split(key, len(found))
        return {m.name: rule.feedback.init(k, m.width, m.taps) for k, m in zip(keys, found, strict=True)}

    return matrices


def meetings(fun: Callable[..., Any], rule: Rule) -> Callable[..., list[Meeting]]:
    """(params, *args) -> where the taps of `rule` meet their errors in what `fun` applies; nothing is computed."""

    def found(*args: Any) -> list[Meeting]:
        with Cuts(rule, lambda name, error, taps: error).made() as cuts:
            jax.eval_shape(fun, *args)
        return cuts.meetings

    return found


def value_and_grad(
    fun: Callable[..., Any],
    rule: Rule,
    matrices: Any = None,
    *,
    has_aux: bool = False,
    layers: Callable[[ClosedJaxpr], Callable[..., list[Any]]] = parallel.batched,
) -> Callable[..., Any]:
    """`jax.value_and_grad(fun, has_aux=...)` of the first argument, with `rule` in place of the chain rule.

    fun: (params, *args) -> a scalar loss, or (loss, aux) with `has_aux`; it applies linen modules as it likes and knows
    nothing of the rule. matrices: of `init`, unboxed; not differentiated. layers: how the gradients of layers under
    `nn.scan`, which do not wait for each other, are run: `parallel.batched` or `parallel.looped`.
    The gradient of all above the last tap is the true one, bit for bit.

    Raises UserError, when it is first called or traced, for a pattern that matches no module, for outputs and errors
    that do not fit, for feedback matrices of another shape, and for a parameter that would get no gradient and that
    `rule.without_gradient` does not name.
    """
    if not rule.cut and not rule.freeze:
        return jax.value_and_grad(fun, has_aux=has_aux)

    def run(params: Any, matrices: Any, *args: Any) -> Any:
        return jax.value_and_grad(under(fun, rule, matrices), has_aux=has_aux)(params, *args)

    def value_and_gradient(params: Any, *args: Any) -> Any:
        inputs = (params, {} if matrices is None else matrices, *args)
        jaxpr, shape = jax.make_jaxpr(run, return_shape=True)(*inputs)
        if rule.feedback:
            _check_reached(jaxpr, shape, rule.without_gradient)
        leaves = layers(jaxpr)(*jax.tree.leaves(inputs))
        return jax.tree.unflatten(jax.tree.structure(shape), leaves)

    return value_and_gradient


def under(
    fun: Callable[..., Any], rule: Rule, matrices: Any, probe: Where = (), probes: Any = None
) -> Callable[..., Any]:
    """`fun`, whose derivative is the rule's. `probe`, `probes` as in `Cuts`."""

    def meet(name: str, error: jax.Array, taps: dict[Tap, jax.Array]) -> jax.Array:
        if not matrices or name not in matrices:
            raise UserError(f"there are no feedback matrices for the error {name!r}: make them with dfa.init")
        return _meet(rule.feedback, list(taps), matrices[name], error, list(taps.values()))

    def cut(*args: Any) -> Any:
        with Cuts(rule, meet, probe, probes).made():
            return fun(*args)

    return cut


def _meet(feedback: Any, taps: list[Tap], matrices: Any, error: jax.Array, outputs: list[jax.Array]) -> jax.Array:
    """`error`, whose cotangent e goes on as it is, and to every tap as the feedback of e."""

    @jax.custom_vjp
    def meet(error: jax.Array, outputs: list[jax.Array], matrices: Any) -> jax.Array:
        return error

    def forward(error: jax.Array, outputs: list[jax.Array], matrices: Any) -> tuple[jax.Array, Any]:
        return error, (matrices, [jnp.zeros((), x.dtype) for x in outputs])

    def backward(kept: Any, e: jax.Array) -> tuple[jax.Array, list[jax.Array], Any]:
        matrices, kinds = kept
        signals = feedback.project(matrices, e, taps)
        shaped = [_shaped(s, tap, kind.dtype) for s, tap, kind in zip(signals, taps, kinds, strict=True)]
        return e, shaped, None

    meet.defvjp(forward, backward)
    return meet(error, outputs, matrices)


def _shaped(signal: jax.Array, tap: Tap, dtype: Any) -> jax.Array:
    """[*batch, width], or with the stack before it -> the shape of the tap's output."""
    signal = signal.astype(dtype).reshape(*signal.shape[:-1], *tap.features)
    return jax.lax.broadcast(signal, tap.shape[: len(tap.shape) - signal.ndim])


def learns(fun: Callable[..., Any], rule: Rule, matrices: Any = None) -> Callable[..., Any]:
    """(params, *args) -> a tree of booleans: which parameters `rule` gives a gradient. Nothing is computed.

    fun: (params, *args) -> a scalar loss. A decay of weights is to leave the others alone, too.
    """

    def tree(*args: Any) -> Any:
        found = jax.make_jaxpr(jax.grad(under(fun, rule, matrices)), return_shape=True)(*args)
        return _reached(*found)

    return tree


def _reached(jaxpr: ClosedJaxpr, shape: Any) -> Any:
    """Of a tree of a jaxpr's outputs, which depend on anything; the others are zeros."""
    depends: set[Var] = {*jaxpr.jaxpr.invars, *jaxpr.jaxpr.constvars}
    for eqn in jaxpr.jaxpr.eqns:
        if any(not isinstance(x, Literal) and x in depends for x in eqn.invars):
            depends.update(eqn.outvars)
    reached = [not isinstance(x, Literal) and x in depends for x in jaxpr.jaxpr.outvars]
    return jax.tree.unflatten(jax.tree.structure(shape), reached)


def _check_reached(jaxpr: ClosedJaxpr, shape: Any, without: Sequence[str]) -> None:
    """Raises UserError for a gradient that depends on nothing."""
    for where, reached in jax.tree_util.tree_leaves_with_path(_reached(jaxpr, shape)[1]):
        name = "/".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in where)
        if not reached and not any(fits(name, pattern) for pattern in without):
            raise UserError(f"parameter {name} would get no gradient: tap it, or name it in without_gradient")
