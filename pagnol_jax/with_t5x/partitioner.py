"""t5x's partitioner on our mesh, by our table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from t5x import partitioning

from pagnol_jax.sharding import rules
from pagnol_jax.sharding.mesh import make_mesh


class OnMesh(NamedTuple):
    """A jitted function that runs and lowers under `jax.set_mesh`, which the constraints inside the model read;
    t5x's own context is the legacy `with mesh:`, under which they would be dropped."""

    jitted: Any
    mesh: Mesh

    def __call__(self, *args: Any) -> Any:
        with jax.set_mesh(self.mesh):
            return self.jitted(*args)

    def lower(self, *args: Any) -> Any:
        with jax.set_mesh(self.mesh):
            return self.jitted.lower(*args)


class Partitioner(partitioning.PjitPartitioner):  # type: ignore[misc]
    """Mesh (data, fsdp, tensor, sequence) and logical axis rules as in `pagnol train`.

    mesh: called with `devices` gives the mesh (gin/mesh/*.gin bind it). t5x's own mesh is (data, model).
    """

    def __init__(self, mesh: Callable[..., Mesh] = make_mesh) -> None:
        super().__init__(num_partitions=1, logical_axis_rules=tuple(rules.RULES.items()))
        self._mesh = mesh(devices=jax.devices())

    @property
    def mesh(self) -> Mesh:
        return self._mesh

    def get_mesh_axes(self, train_state: Any) -> Any:
        """PartitionSpecs of a state of arrays or shapes by `rules.spec`, which leaves out what does not divide."""
        logical = self.get_logical_axes(train_state)
        shapes = flatten_dict(train_state.state_dict())

        def spec(path: tuple[str, ...], axes: Any) -> P | None:
            return None if axes is None else rules.spec(tuple(axes), shapes[path].shape, self.mesh)

        flat = flatten_dict(logical.state_dict(), keep_empty_nodes=True)
        return logical.restore_state(unflatten_dict({path: spec(path, axes) for path, axes in flat.items()}))

    def partition(
        self,
        fn: Callable[..., Any],
        in_axis_resources: Any,
        out_axis_resources: Any,
        static_argnums: Any = (),
        donate_argnums: Any = (),
    ) -> OnMesh:
        """`jax.jit` with these specs; None is replicated."""

        def shardings(specs: Any) -> Any:
            is_spec = lambda x: x is None or isinstance(x, P)  # noqa: E731
            return jax.tree.map(lambda spec: NamedSharding(self.mesh, spec or P()), specs, is_leaf=is_spec)

        jitted = jax.jit(
            fn,
            in_shardings=shardings(in_axis_resources),
            out_shardings=shardings(out_axis_resources),
            static_argnums=static_argnums,
            donate_argnums=donate_argnums,
        )
        return OnMesh(jitted, self.mesh)
