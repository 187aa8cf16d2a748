"""Layers that do not wait for each other: loops of a gradient that are none.

Backpropagation through `nn.scan` is a loop from the last layer to the first. Under a rule that cuts every layer the
same loop hands nothing on: `batched` finds such loops in a traced gradient and runs all their iterations at once.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, DropVar, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun
from jax.interpreters import partial_eval as pe


def looped(jaxpr: ClosedJaxpr) -> Callable[..., list[Any]]:
    """`jaxpr` as a function, as it is."""
    return jaxpr_as_fun(jaxpr)


def batched(jaxpr: ClosedJaxpr) -> Callable[..., list[Any]]:
    """`jaxpr` as a function, with every scan whose iterations are independent run as one batch."""

    def run(*args: Any) -> list[Any]:
        return _Run(jaxpr.jaxpr, jaxpr.consts).outputs(args)

    return run


def independent(eqn: JaxprEqn) -> bool:
    """Whether no iteration of a scan reads what the one before it carried on."""
    if eqn.primitive.name != "scan" or not eqn.params["num_carry"] or eqn.params["length"] == 1:
        return False
    body = eqn.params["jaxpr"].jaxpr
    first = eqn.params["num_consts"]
    carried: set[Var] = set(body.invars[first : first + eqn.params["num_carry"]])
    for inner in body.eqns:
        if any(not isinstance(x, Literal) and x in carried for x in inner.invars):
            return False
    return not any(not isinstance(x, Literal) and x in carried for x in body.outvars)


class _Run:
    """An evaluation of a jaxpr, equation by equation."""

    def __init__(self, jaxpr: Jaxpr, consts: list[Any]) -> None:
        self.jaxpr, _ = pe.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)
        self.values: dict[Var, Any] = dict(zip(self.jaxpr.constvars, consts, strict=True))
        self.repeated: dict[Var, Any] = {}  # arrays that are one array repeated along their first axis: that array

    def outputs(self, args: Any) -> list[Any]:
        self.values.update(zip(self.jaxpr.invars, args, strict=True))
        for eqn in self.jaxpr.eqns:
            outs = self._batch(eqn) if independent(eqn) else self._plain(eqn)
            self.values.update(zip(eqn.outvars, outs, strict=True))
        return [self._read(x) for x in self.jaxpr.outvars]

    def _read(self, x: Any) -> Any:
        return x.val if isinstance(x, Literal) else self.values[x]

    def _plain(self, eqn: JaxprEqn) -> list[Any]:
        if eqn.primitive.name == "jit" and _holds_independent(eqn.params["jaxpr"].jaxpr):
            inner = eqn.params["jaxpr"]
            return _Run(inner.jaxpr, inner.consts).outputs([self._read(x) for x in eqn.invars])
        if eqn.primitive.name == "broadcast_in_dim" and 0 not in (places := eqn.params["broadcast_dimensions"]):
            shape = eqn.params["shape"][1:]
            self.repeated[eqn.outvars[0]] = jax.lax.broadcast_in_dim(
                self._read(eqn.invars[0]), shape, [i - 1 for i in places]
            )
        variables = [x for x in eqn.invars if not isinstance(x, Literal)]
        alone = self.jaxpr.replace(constvars=[], invars=variables, outvars=list(eqn.outvars), eqns=[eqn])
        return jax.core.eval_jaxpr(alone, [], *[self.values[x] for x in variables])

    def _batch(self, eqn: JaxprEqn) -> list[Any]:
        """Outputs of an independent scan: what it carries on, and what it stacks."""
        p = eqn.params
        first, carry = p["num_consts"] + p["num_carry"], p["num_carry"]
        fixed = [self._read(x) for x in eqn.invars[:first]]
        xs = [self._read(x) for x in eqn.invars[first:]]
        shared = [None if isinstance(x, Literal) else self.repeated.get(x) for x in eqn.invars[first:]]
        body = jaxpr_as_fun(p["jaxpr"])
        axes = [0 if one is None else None for one in shared]

        def stacked(part: slice, length: int) -> list[Any]:
            layers = [x[part] if one is None else one for x, one in zip(xs, shared, strict=True)]
            return jax.vmap(lambda *layer: body(*fixed, *layer)[carry:], axes, axis_size=length)(*layers)

        if all(isinstance(x, DropVar) for x in eqn.outvars[:carry]):
            return [*fixed[p["num_consts"] :], *stacked(slice(None), p["length"])]
        # The last iteration is run by itself: the others' part of what is carried is computed for nothing, and so
        # falls away.
        last, rest = (0, slice(1, None)) if p["reverse"] else (p["length"] - 1, slice(-1))
        alone = body(*fixed, *[x[last] for x in xs])
        others = stacked(rest, p["length"] - 1)
        pairs = zip(alone[carry:], others, strict=True)
        joined = [[one[None], more] if p["reverse"] else [more, one[None]] for one, more in pairs]
        return [*alone[:carry], *[jnp.concatenate(parts) for parts in joined]]


def _holds_independent(jaxpr: Jaxpr) -> bool:
    inner = (eqn.params["jaxpr"].jaxpr for eqn in jaxpr.eqns if eqn.primitive.name == "jit")
    return any(map(independent, jaxpr.eqns)) or any(map(_holds_independent, inner))
