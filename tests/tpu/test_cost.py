"""What compiled programs cost, against what they were written to do."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from pagnol_jax.sharding.mesh import make_mesh
from pagnol_jax.tpu.cost import Accountant, Cost
from pagnol_jax.tpu.hlo import parse
from pagnol_jax.tpu.roofline import bandwidth, roofline
from pagnol_jax.tpu.topology import Topology, topology
from pagnol_jax.tpu.traffic import NETWORK


def cost(topology: Topology, function: Callable, *shapes: tuple[int, ...], specs=None, sizes=(1, 2, 4, 1)) -> Cost:
    """Of `function` of bfloat16 arrays, split by `specs`, on a mesh of `sizes`."""
    mesh = make_mesh(*sizes, devices=topology.devices)
    specs = specs or [P()] * len(shapes)
    with jax.set_mesh(mesh):
        args = [
            jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=NamedSharding(mesh, spec))
            for shape, spec in zip(shapes, specs, strict=True)
        ]
        text = jax.jit(function).lower(*args).compile().as_text()
    return Accountant(parse(text), mesh.axis_names, mesh.devices.shape).total()


@pytest.mark.parametrize("length", [1, 5, 12])
def test_a_scan_counts_as_often_as_it_runs(v5e: Topology, length: int) -> None:
    def layers(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    found = cost(v5e, layers, (512, 256), (length, 256, 256))
    assert found.flops == pytest.approx(length * 2 * 512 * 256 * 256)


def test_nested_scans_and_gradients(v5e: Topology) -> None:
    """Three products for each one of the forward pass, less the first layer's gradient of its input."""

    def loss(weights, x):
        def part(total, x):
            y = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]
            return total + y.astype(jnp.float32).sum(), None

        return jax.lax.scan(part, jnp.zeros(()), x)[0]

    found = cost(v5e, jax.grad(loss), (6, 256, 256), (4, 512, 256))
    forward = 4 * 6 * 2 * 512 * 256 * 256
    assert 2.5 * forward <= found.flops <= 3 * forward


def test_batched_products(v5e: Topology) -> None:
    """A TPU writes them as convolutions whose windows lie in padding: only what meets data counts."""
    found = cost(v5e, lambda a, b: jnp.einsum("bhqd,bhkd->bhqk", a, b), (2, 6, 256, 64), (2, 6, 384, 64))
    assert found.flops == pytest.approx(2 * 2 * 6 * 256 * 384 * 64)


COLLECTIVES = {
    "all-reduce": (lambda x: jax.lax.psum(x, "tensor"), P(), 2 * 3 / 4 * 256 * 512 * 2),
    "all-gather": (lambda x: jax.lax.all_gather(x, "tensor", tiled=True), P(), 3 / 4 * 4 * 256 * 512 * 2),
    "reduce-scatter": (
        lambda x: jax.lax.psum_scatter(x, "tensor", scatter_dimension=0, tiled=True),
        P("tensor"),
        3 / 4 * 256 * 512 * 2,
    ),
    "collective-permute": (
        lambda x: jax.lax.ppermute(x, "tensor", [(i, (i + 1) % 4) for i in range(4)]),
        P("tensor"),
        256 * 512 * 2,
    ),
    "all-to-all": (
        lambda x: jax.lax.all_to_all(x, "tensor", 0, 1, tiled=True),
        P(None, "tensor"),
        3 / 4 * 256 * 512 * 2,
    ),
}


@pytest.mark.parametrize("kind", COLLECTIVES)
def test_bytes_sent_over_an_axis(v5e: Topology, kind: str) -> None:
    """Of [256, 512] bfloat16 on each of four devices; a collective may be written as another one."""
    body, out, expected = COLLECTIVES[kind]
    function = jax.shard_map(body, in_specs=P("tensor"), out_specs=out, check_vma=False)
    with jax.set_mesh(make_mesh(1, 2, 4, 1, devices=v5e.devices)):
        mapped = functools.partial(function)
    found = cost(v5e, mapped, (1024, 512), specs=[P("tensor")])
    assert {axes for _, axes in found.traffic} == {("tensor",)}
    assert sum(found.traffic.values()) == pytest.approx(expected)


def test_hbm_counts_slices_as_slices(v5e: Topology) -> None:
    """A scan over stacked weights reads each once, not all of them at each turn; one array is read and written once."""

    def layers(x, weights):
        return jax.lax.scan(lambda x, w: (x @ w, None), x, weights)[0]

    stack, x = 16 * 2048 * 2048 * 2, 8192 * 2048 * 2
    found = cost(v5e, layers, (8192, 2048), (16, 2048, 2048))
    assert stack <= found.hbm_bytes <= 2 * stack + 2 * 16 * x
    copied = cost(v5e, lambda x: x * 2, (8192, 8192))
    assert copied.hbm_bytes == pytest.approx(2 * 8192 * 8192 * 2)


PREFETCHED = """HloModule prefetched, is_scheduled=true

ENTRY %main (weights: bf16[64,1024]) -> bf16[16,1024] {
  %weights = bf16[64,1024]{1,0:T(8,128)(2,1)} parameter(0)
  %slice-start = ((bf16[64,1024]{1,0}), bf16[16,1024]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%weights), slice={[16:32]}
  %slice-done = bf16[16,1024]{1,0:S(1)} slice-done(%slice-start)
  %copy-start = (bf16[16,1024]{1,0}, bf16[16,1024]{1,0:S(1)}, u32[]{:S(2)}) copy-start(%slice-done)
  ROOT %copy-done = bf16[16,1024]{1,0} copy-done(%copy-start)
}
"""


def test_hbm_counts_what_is_prefetched() -> None:
    """A piece of an array that goes to the chip's own memory, and back: the piece twice, not the array."""
    found = Accountant(parse(PREFETCHED), ("data",), (1,)).total()
    assert found.hbm_bytes == 2 * 16 * 1024 * 2


def test_links_of_a_torus() -> None:
    """A line of four chips has a link each way; a ring twice that; an axis over two dimensions the links of both."""
    for name, sizes, expected in (
        ("v5e:4x4", (1, 4, 4, 1), 1),
        ("v5e:4x4", (1, 16, 1, 1), 2),
        ("v5e:16x16", (1, 16, 16, 1), 2),
        ("v5p:4x4x4", (1, 64, 1, 1), 6),
    ):
        there = topology(name)
        mesh = make_mesh(*sizes, devices=there.devices)
        assert bandwidth(("fsdp",), there, mesh) == expected * there.chip.link_bandwidth


def test_slices_are_joined_by_their_network_alone() -> None:
    there = topology("v5e:2x4", num_slices=2)
    mesh = make_mesh(2, 8, 1, 1, devices=there.devices)
    line = roofline(Cost(traffic={(NETWORK, ("data",)): 1e9, ("all-gather", ("fsdp",)): 1e9}), there, mesh)
    assert line.dcn == pytest.approx(1e9 / there.chip.network_bandwidth)
    assert line.ici == pytest.approx(1e9 / (2 * there.chip.link_bandwidth))
    assert line.binds == "dcn"
