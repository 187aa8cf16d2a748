"""The one table of (logical axis -> mesh axes), and everything derived from it."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from pagnol_jax.errors import UserError

# Earlier rows win where two logical axes of one array want the same mesh axis: activations keep `fsdp` on
# their batch and `sequence` on their length, parameters (which have neither) put both on `embed`.
RULES: dict[str, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "length": "sequence",
    "vocab": ("tensor", "stage"),
    "mlp": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "embed": ("fsdp", "sequence"),
    "head_dim": None,
    "layers": "stage",
    "stages": "stage",  # what the stages of a pipeline do at one time
}


def spec(axes: tuple[str | None, ...], shape: tuple[int, ...], mesh: Any = None) -> P:
    """PartitionSpec of an array with logical `axes` on `mesh`, by default that of `jax.set_mesh`; a mesh axis that
    does not divide its dimension is left out."""
    mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh
    if mesh.empty:
        return P(*[None] * len(axes))
    taken: set[str] = set()
    entries: list[Any] = [None] * len(axes)
    for logical, rule in RULES.items():
        for i, axis in enumerate(axes):
            if axis == logical and (names := _fitting(rule, shape[i], mesh, taken)):
                entries[i] = names if len(names) > 1 else names[0]
                taken.update(names)
    return P(*entries)


def _fitting(rule: str | tuple[str, ...] | None, size: int, mesh: Any, taken: set[str]) -> tuple[str, ...]:
    names: tuple[str, ...] = ()
    for name in (rule,) if isinstance(rule, str) else rule or ():
        if mesh.shape.get(name, 1) > 1 and name not in taken and size % mesh.shape[name] == 0:
            names, size = (*names, name), size // mesh.shape[name]
    return names


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """`x` with its logical axes held to the table on the mesh set by `jax.set_mesh`; no mesh, no change."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, spec(axes, x.shape, mesh))


def mesh_axes(spec: P) -> tuple[str, ...]:
    """The mesh axes that split anything under `spec`."""
    return tuple(name for entry in spec if entry for name in ((entry,) if isinstance(entry, str) else entry))


def sharded(function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """`function` of every device's own part of the arguments, where `jax.set_mesh` has set several devices."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return function
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def platform() -> str:
    """'cpu', 'gpu' or 'tpu': of the mesh set by `jax.set_mesh`, whether its devices are at hand or not."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def is_split(axis: str) -> bool:
    """Whether the current mesh divides logical `axis` over several devices."""
    mesh = jax.sharding.get_abstract_mesh()
    rule = RULES[axis]
    names = (rule,) if isinstance(rule, str) else rule or ()
    return not mesh.empty and any(mesh.shape.get(name, 1) > 1 for name in names)


def count(axis: str, mesh: Any) -> int:
    """Parts into which a mesh divides logical `axis`."""
    rule = RULES[axis]
    return math.prod(mesh.shape.get(m, 1) for m in ((rule,) if isinstance(rule, str) else rule or ()))


def shardings(boxed: Any, mesh: Mesh) -> Any:
    """NamedSharding of every leaf of an abstract tree; leaves boxed with logical axes follow the table,
    the others are replicated."""

    def sharding(leaf: Any) -> NamedSharding:
        if isinstance(leaf, nn.Partitioned):
            return NamedSharding(mesh, spec(leaf.names, leaf.value.shape, mesh))
        return NamedSharding(mesh, P())

    return jax.tree.map(sharding, boxed, is_leaf=lambda x: isinstance(x, nn.Partitioned))


def check(sizes: dict[str, tuple[str, int]], mesh: Mesh) -> None:
    """Compares {logical axis: (name for people, size)} with the table before anything is compiled.

    Raises UserError with every size that the mesh does not divide.
    """
    wrong = []
    for axis, (name, size) in sizes.items():
        if size % (parts := count(axis, mesh)):
            wrong.append(f"{name} {size} by {parts}")
    if wrong:
        raise UserError(f"mesh {dict(mesh.shape)} does not divide {', '.join(wrong)}")
