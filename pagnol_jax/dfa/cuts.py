"""The cut: feedback points made in a network from outside, while it runs.

`nn.intercept_methods` sees every call of a module. Where a rule taps one, its output goes on as a constant and the
output itself is kept in a collection of the network's variables, which `nn.scan` and `nn.remat` carry out of their
bodies. At the error's module the kept outputs meet the error in a function whose gradient is the rule.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core.scope import union_filters
from flax.traverse_util import flatten_dict, unflatten_dict

from pagnol_jax.dfa.feedback import Tap
from pagnol_jax.dfa.rules import Rule
from pagnol_jax.dfa.select import Where, matches, path, patterns
from pagnol_jax.errors import UserError

# The collection {*path: {"tap0": output of the first call, ...}}. "probe0" is an output to look at, or the zeros that
# are added to it, whose gradients are signals.
KEPT = "dfa"
TAP, PROBE = "tap", "probe"
# A part of what JAX knows its traces by: one with cuts serves no call with others, or with none.
CUT = jax.make_user_context(None)


class Meeting(NamedTuple):
    """Where taps meet their error: the error's path (with #1, #2 where a path comes again), its width, its taps."""

    name: str
    width: int
    taps: list[Tap]


class Cuts:
    """An interceptor for one run of a function that applies modules.

    meet(name, error's tensor, {Tap: output}) -> the tensor; called where the taps of a rule meet their error.
    probe, probes: where to add which zeros, a tree per network that the function applies.
    Once the function has run, `meetings` are what met, and `seen` the outputs of the modules to probe, per network.
    """

    def __init__(
        self, rule: Rule, meet: Callable[..., jax.Array], probe: Where = (), probes: list[Any] | None = None
    ) -> None:
        self.rule, self.meet, self.probe, self.probes = rule, meet, probe, probes
        self.meetings: list[Meeting] = []
        self.seen: list[Any] = []
        self.matched: set[tuple[str, str]] = set()
        self.ranks: dict[str, int] = {}  # dimensions of a tapped output inside its scans
        self.root: Any = None
        self.depth = 0
        self.used: set[tuple[str, ...]] = set()
        self.left: list[tuple[str, ...]] = []  # taps that met no error
        self.calls: dict[tuple[int, str], tuple[Any, int]] = {}  # with the scopes, so that no id comes again

    @contextlib.contextmanager
    def made(self, whole: bool = True) -> Iterator["Cuts"]:
        """Around the run. Raises UserError for patterns that matched nothing and for taps that met no error, unless
        less than the `whole` network runs."""
        with CUT(object()), nn.intercept_methods(self._intercept):
            yield self
        if not whole:
            return
        wanted = {("taps", pattern) for pattern in patterns(self.rule.taps)}
        wanted |= {("normalise", pattern) for pattern in patterns(self.rule.normalise)}
        wanted |= {("error", pattern) for pattern in patterns(self.rule.error) if self.rule.feedback}
        wanted |= {("at", pattern) for pattern in patterns(self.probe)}
        for what, pattern in sorted(wanted - self.matched):
            raise UserError(f"no module of the network matches {what} {pattern!r}")
        if self.left and self.rule.feedback:
            raise UserError(f"tap {'/'.join(self.left[0][:-1])} lies above the error {self.rule.error!r}")

    def _intercept(self, call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if module.scope is None:
            return call(*args, **kwargs)
        if not module.path:
            self._enter(module)
        outermost = self.depth == 0 and context.method_name != "setup"
        point = outermost or context.method_name == "__call__"
        tapped = point and self._marked("taps", self.rule.taps, module)
        if self.rule.freeze and self._marked("taps", self.rule.taps, module):
            _freeze(module)  # before `setup` reads parameters, and before any method does
        self.depth += 1
        try:
            out = call(*args, **kwargs)
        finally:
            self.depth -= 1
        if point and self._marked("at", self.probe, module):
            out = self._probed(module, out)
        if tapped and self.rule.cut:
            out = self._tapped(module, out)
        if point and self.rule.feedback and self._marked("error", self.rule.error, module):
            out = self._met(module, out)
        if outermost:
            self._leave(module)
        return out

    def _marked(self, what: str, where: Where, module: nn.Module) -> bool:
        found = matches(where, module)
        self.matched.update((what, pattern) for pattern in found)
        return bool(found)

    def _enter(self, module: nn.Module) -> None:
        """A network begins: the collection is opened, and probes put in."""
        scope = _scope(module)
        if scope is self.root:
            return
        self.root, self.used = scope, set()
        _open(module)
        for name, probes in (self.probes[len(self.seen)] if self.probes else {}).items():
            scope.put_variable(KEPT, name, probes)

    def _leave(self, module: nn.Module) -> None:
        """A network ends: the collection goes, so that the caller never sees it."""
        kept = flatten_dict(_scope(module)._variables.pop(KEPT, {}))
        self.seen.append(unflatten_dict({key: x for key, x in kept.items() if key[-1].startswith(PROBE)}))
        self.left += [key for key in kept if key[-1].startswith(TAP) and key not in self.used]
        self.root = None

    def _tapped(self, module: nn.Module, out: Any) -> Any:
        value, put = _only_array(module, out)
        heard = value
        if self._marked("normalise", self.rule.normalise, module):
            heard = _standardized(value)
        self._keep(module, TAP, heard)
        return put(jax.lax.stop_gradient(value))

    def _probed(self, module: nn.Module, out: Any) -> Any:
        value, put = _only_array(module, out)
        if self.probes is None:
            self._keep(module, PROBE, value)
            return out
        return put(value + _scope(module).get_variable(KEPT, self._call(module, PROBE)))

    def _keep(self, module: nn.Module, kind: str, value: jax.Array) -> None:
        """Keeps an output of a module among its variables."""
        if not _scope(module).is_mutable_collection(KEPT):
            why = f"the transformation around it does not carry it out: give its nn.scan variable_axes={{'{KEPT}': 0}}"
            raise UserError(f"the output of module {path(module)} cannot be kept: {why}")
        name = self._call(module, kind)
        self.ranks["/".join((*module.path, name))] = value.ndim
        _scope(module).put_variable(KEPT, name, value)

    def _call(self, module: nn.Module, kind: str) -> str:
        """'tap0' at the first call of a module. Every trace of a scan's body has scopes of its own."""
        scope = _scope(module)
        _, count = self.calls.get((id(scope), kind), (scope, 0))
        self.calls[id(scope), kind] = scope, count + 1
        return f"{kind}{count}"

    def _met(self, module: nn.Module, out: Any) -> Any:
        value, put = _only_array(module, out)
        kept = flatten_dict(_scope(module).root._variables.get(KEPT, {}))
        arrays = {k: kept[k] for k in sorted(kept) if k[-1].startswith(TAP) and k not in self.used}
        if not arrays:
            return out
        self.used |= set(arrays)
        taps = {self._tap(key, array, value): array for key, array in arrays.items()}
        name = path(module)
        again = sum(meeting.name.split("#")[0] == name for meeting in self.meetings)
        name = f"{name}#{again}" if again else name
        self.meetings.append(Meeting(name, value.shape[-1], list(taps)))
        return put(self.meet(name, value, taps))

    def _tap(self, key: tuple[str, ...], array: jax.Array, error: jax.Array) -> Tap:
        name = named(key)
        stack, shape = array.ndim - self.ranks["/".join(key)], array.shape
        batch = error.shape[:-1]
        tap = Tap(name, shape[:stack], shape[stack : stack + len(batch)], shape[stack + len(batch) :])
        if tap.batch != batch:
            raise UserError(
                f"tap {name} has shape {list(shape[stack:])}, the error {list(error.shape)}: "
                f"the first {len(batch)} dimensions are to be the same"
            )
        if not batch and len(tap.features) > 1 and tap.features[:1] == error.shape:
            raise UserError(
                f"the error has shape {list(error.shape)}, a number per sample of tap {name}: give it a last dimension"
            )
        return tap


def named(key: tuple[str, ...]) -> str:
    """'blocks/mlp' of what its first call kept, 'blocks/mlp/1' of its second."""
    call = key[-1].removeprefix(TAP).removeprefix(PROBE)
    return "/".join(key[:-1] if call == "0" else (*key[:-1], call))


def _only_array(module: nn.Module, out: Any) -> tuple[jax.Array, Callable[[jax.Array], Any]]:
    """The one floating-point array of an output, and what puts another in its place."""
    treedef: Any
    leaves, treedef = jax.tree.flatten(out)
    places = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]
    if len(places) != 1:
        raise UserError(f"module {path(module)!r} returns {len(places)} floating-point arrays: a tap or error is one")
    place = places[0]
    return leaves[place], lambda new: treedef.unflatten([*leaves[:place], new, *leaves[place + 1 :]])


@jax.checkpoint  # nobody reads its value, and its derivative needs the input alone
def _standardized(x: jax.Array) -> jax.Array:
    return jax.nn.standardize(x.astype(jnp.float32)).astype(x.dtype)


def _open(module: nn.Module) -> None:
    """Makes the collection mutable in a network's scope, and in those of the submodules that it has already."""
    scope = _scope(module)
    scope.mutable = union_filters(scope.mutable, [KEPT])
    for child in module._state.children.values():
        if isinstance(child, nn.Module) and child.scope is not None:
            _open(child)


def _freeze(module: nn.Module) -> None:
    """Makes a module's parameters constants before it reads them."""
    scope = _scope(module)
    scope._variables["params"] = jax.lax.stop_gradient(scope._collection("params"))


def _scope(module: nn.Module) -> Any:
    """Where a bound module's variables live."""
    return module.scope
