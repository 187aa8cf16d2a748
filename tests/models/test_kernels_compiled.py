"""The kernels through the compilers of the machines that they are for: TPUs with libtpu, GPUs as far as lowering."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from models.kernel_cases import MASKS, SCHEMES, expect, inputs, make_mask, run, worst

from pagnol_jax.errors import UserError
from pagnol_jax.models.attention import attend
from pagnol_jax.models.kernels import FUSED, cudnn
from pagnol_jax.models.masks import Mask
from pagnol_jax.sharding.mesh import make_mesh
from pagnol_jax.tpu.topology import prepare_environment, topology

SLICES = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}


def shapes(mask: str, batch: int, length: int, heads: tuple[int, int], head_dim: int, shard=lambda x, *_: x) -> tuple:
    """Query, key, value, cotangent and mask."""
    axes = "data", "sequence"
    query, key = (shard(jax.ShapeDtypeStruct((batch, length, n, head_dim), jnp.bfloat16), *axes) for n in heads)
    ids = shard(jax.ShapeDtypeStruct((batch, length), jnp.int32), "data") if "packed" in mask else None
    flags = shard(jax.ShapeDtypeStruct((batch, length), jnp.bool_), "data") if "prefix" in mask else None
    return query, key, key, query, Mask(ids, flags)


def forward_and_back(scheme: str, kernel):
    def values(query, key, value, cotangent, mask):
        slopes = SCHEMES[scheme].slopes(query.shape[2]) if SCHEMES[scheme].slopes else None
        out, pull = jax.vjp(lambda q, k, v: kernel(q, k, v, mask, slopes), query, key, value)
        return out, *pull(cotangent)

    return values


def compiled(generation: str, mask: str, scheme: str, length: int, heads: tuple[int, int], head_dim: int, **axes: int):
    """For a slice of four chips with a sequence each, or one sequence that they share as `axes` say."""
    prepare_environment()
    try:
        devices = topology(SLICES[generation]).devices
    except UserError as error:
        pytest.skip(str(error))
    axes = axes or {"data": 4}
    mesh = make_mesh(**axes, devices=devices)

    def shard(x, *names):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, P(*names)))

    arguments = shapes(mask, axes["data"], length, heads, head_dim, shard)
    with jax.set_mesh(mesh):
        return jax.jit(forward_and_back(scheme, attend)).lower(*arguments).compile()


SPLASH = {"splash_mha_fwd", "splash_mha_dkv"}
FLASH = {"flash_forward", "flash_backward_query", "flash_backward_keys"}


def check(program, length: int, heads: int, names: set[str]) -> None:
    """The kernels are in the program, and beside them at most four arrays of the queries' size, in float32 and with
    heads padded to 128: at 1,024 slots half of one sequence's scores, at 32,768 a 64th."""
    text = program.as_text()
    assert all(f"%{name}" in text for name in names)
    assert program.memory_analysis().temp_size_in_bytes <= 4 * heads * length * 128 * 4


@pytest.mark.parametrize(
    ("mask", "scheme", "names"),
    [("packed", "none", SPLASH), ("packed prefix", "alibi", FLASH)],
    ids=["splash", "flash"],
)
def test_kernels_compile_for_v5e(mask: str, scheme: str, names: set[str]) -> None:
    """PAGnol-XL's 25 heads of 64."""
    check(compiled("v5e", mask, scheme, 1024, (25, 25), 64), 1024, 25, names)


@pytest.mark.slow
@pytest.mark.parametrize("length", [1024, 2048, 32768])
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("generation", SLICES)
def test_kernels_compile_for_every_generation(generation: str, head_dim: int, length: int) -> None:
    check(compiled(generation, "packed", "rotary", length, (4, 4), head_dim), length, 4, SPLASH)
    check(compiled(generation, "packed prefix", "alibi", length, (4, 2), head_dim), length, 4, FLASH)


@pytest.mark.slow
@pytest.mark.parametrize(("heads", "own"), [((25, 25), 25), ((16, 4), 4), ((16, 1), 4)], ids=str)
def test_long_sequences_over_chips_compile(heads: tuple[int, int], own: int) -> None:
    """Of 16 heads each chip gets four, which share one key head; of 25, all."""
    splash = SPLASH if own == 25 else {name.replace("mha", "mqa") for name in SPLASH}
    for mask, scheme, names in (("packed", "none", splash), ("packed prefix", "alibi", FLASH)):
        check(compiled("v5e", mask, scheme, 32_768, heads, 64, data=1, sequence=4), 32_768, own, names)


def test_flash_tells_the_compiler_its_cost() -> None:
    """Nine products over the causal blocks of 512: three of four."""
    program = compiled("v5e", "packed", "alibi", 1024, (4, 2), 64)
    assert program.cost_analysis()["flops"] == pytest.approx(9 * 2 * 4 * 1024**2 * 3 / 4 * 64, rel=0.01)


def gpu_program(mask: str, scheme: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Lowered for CUDA, which asks for a version of cuDNN that is not here."""
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91000)
    monkeypatch.setattr("pagnol_jax.models.kernels.platform", lambda: "gpu")

    def kernel(*arguments):
        return attend(*arguments, "auto")

    traced = jax.jit(forward_and_back(scheme, kernel)).trace(*shapes(mask, 4, 1024, (4, 2), 64))
    return traced.lower(lowering_platforms=("cuda",)).as_text()


def test_gpus_get_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A causal mask without any [T, T] array; others as a bias in half precision."""
    causal = gpu_program("causal", "rotary", monkeypatch)
    assert "__cudnn$fmhaSoftmax(" in causal
    assert "__cudnn$fmhaSoftmaxBackward(" in causal
    assert "1024x1024" not in causal
    assert "tensor<4x1x1024x1024xbf16>" in gpu_program("packed prefix", "none", monkeypatch)
    alibi = gpu_program("causal", "alibi", monkeypatch)
    assert "__cudnn$fmhaScaleBiasSoftmax(" in alibi
    assert "tensor<1x4x1024x1024xbf16>" in alibi


@pytest.mark.parametrize(
    ("dtype", "head_dim", "length"), [("float32", 64, 256), ("bfloat16", 20, 256), ("bfloat16", 64, 255)]
)
def test_gpus_go_the_plain_way_where_cudnn_does_not(dtype: str, head_dim: int, length: int) -> None:
    query = jax.ShapeDtypeStruct((1, length, 4, head_dim), dtype)
    assert FUSED["gpu"](query) is None
    assert FUSED["gpu"](jax.ShapeDtypeStruct((1, 256, 4, 64), "bfloat16")) is cudnn.attend


@pytest.mark.parametrize("mask_name", MASKS)
def test_arguments_of_cudnn(mask_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same call, computed by XLA instead, is plain attention; also of queries that are a part of the slots."""
    arrays, mask = inputs(2, 256, (5, 1), 8, "float32"), make_mask(mask_name, 2, 256)
    scheme = SCHEMES["none" if mask_name == "packed" else "alibi"]
    monkeypatch.setitem(FUSED, "cpu", lambda query: functools.partial(cudnn.attend, implementation="xla"))
    expected = expect(arrays, mask, scheme)
    assert worst(run("fused", arrays, mask, scheme), expected) < 1e-5
    with jax.set_mesh(make_mesh(data=2, sequence=4)):
        assert worst(run("fused", arrays, mask, scheme), expected) < 1e-5
