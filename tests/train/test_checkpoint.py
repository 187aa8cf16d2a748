"""Checkpoints: what they give back is what was saved, or an older one, never anything else."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from pagnol_jax.errors import UserError
from pagnol_jax.sharding.mesh import make_mesh
from pagnol_jax.train import checkpoint
from pagnol_jax.train.checkpoint import Checkpoints, all_finite, checksums, compare
from pagnol_jax.train.step import State

# Where a read fails, tensorstore leaves other reads that nobody waits for.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
DATA = {"fingerprint": "f", "tokens_per_step": 8}


def state(step: int, width: int = 64) -> State:
    kernel = jax.random.normal(jax.random.key(step), (width, width))
    return State(jnp.int32(step), {"kernel": kernel, "bias": kernel[0]}, {"mu": kernel.astype(jnp.bfloat16)})


def abstract(tree: State) -> State:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def bits(tree: State) -> list[bytes]:
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of steps 1 and 2."""
    run_dir = tmp_path_factory.mktemp("saved")
    checkpoints = Checkpoints(run_dir / "checkpoints")
    for step in (1, 2):
        checkpoints.save(state(step), DATA)
    checkpoints.wait()
    checkpoints.close()
    return run_dir


@pytest.fixture
def run_dir(saved: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(saved, tmp_path / "run"))


def restored(run_dir: Path, like: State | None = None) -> State:
    checkpoints = Checkpoints(run_dir / "checkpoints")
    try:
        found = checkpoints.restore(abstract(state(1) if like is None else like))
        assert found is not None
        assert found[1]["data"] == DATA
        return found[0]
    finally:
        checkpoints.close()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[random.Random(path.name).randrange(len(content))] ^= 1 << random.Random(0).randrange(8)
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# Of every so many files of a checkpoint: all of them, by every damage, take minutes.
DAMAGES = [(truncate, 4), *(pytest.param(each, 1, marks=pytest.mark.slow) for each in (truncate, flip, Path.unlink))]


def test_newest_comes_back(run_dir: Path) -> None:
    assert bits(restored(run_dir)) == bits(state(2))


@pytest.mark.parametrize(("damage", "every"), DAMAGES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_any_damaged_file_is_survived(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture, damage: Callable[[Path], None], every: int
) -> None:
    """Whichever file it is: the newest one exactly, or the one before exactly and a line on stderr."""
    files = sorted(path.relative_to(run_dir) for path in run_dir.glob("checkpoints/2/**/*") if path.is_file())
    noticed = 0
    for number, file in enumerate(files[::every]):
        copy = Path(shutil.copytree(run_dir, tmp_path / str(number)))
        damage(copy / file)
        found = bits(restored(copy))
        told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pagnol: ")]
        assert found == bits(state(1 if told else 2)), file
        assert (copy / "damaged" / "2").is_dir() == bool(told)
        noticed += bool(told)
    assert noticed >= (3 if every == 1 else 1), "arrays, their index, the note"


def test_after_damage_the_step_is_saved_again(run_dir: Path) -> None:
    largest(run_dir / "checkpoints" / "2").write_bytes(b"")
    assert bits(restored(run_dir)) == bits(state(1))
    checkpoints = Checkpoints(run_dir / "checkpoints")
    checkpoints.save(state(2), DATA)
    checkpoints.wait()
    checkpoints.close()
    assert bits(restored(run_dir)) == bits(state(2))


def largest(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def test_nothing_readable_touches_nothing(run_dir: Path, capsys: pytest.CaptureFixture) -> None:
    """It may be memory or permissions: the checkpoints stay where they are."""
    for step in (1, 2):
        largest(run_dir / "checkpoints" / str(step)).write_bytes(b"")
    with pytest.raises(UserError, match="can be read; without it the run starts anew"):
        restored(run_dir)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in lines if line.startswith("pagnol: ")] == [
        "checkpoint 2 is damaged",
        "checkpoint 1 is damaged",
    ]
    assert {path.name for path in (run_dir / "checkpoints").iterdir()} == {"1", "2"}
    assert not (run_dir / "damaged").exists()


@pytest.mark.parametrize(
    "like",
    [
        state(1, width=32),
        state(1).replace(optimizer={}),
        state(1).replace(optimizer={"mu": jnp.zeros((64, 64), jnp.float32)}),
    ],
    ids=["shape", "tree", "dtype"],
)
def test_another_configuration_is_not_damage(run_dir: Path, like: State) -> None:
    with pytest.raises(UserError, match="holds another model or optimiser"):
        restored(run_dir, like)
    assert bits(restored(run_dir)) == bits(state(2))


def test_a_wrong_array_that_orbax_reads_is_noticed(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should the bits change where no file format sees it (in memory, say), the sums do."""
    monkeypatch.setattr(
        checkpoint, "checksums", lambda tree: checksums(tree) | ({".step": 7} if tree.step == 2 else {})
    )
    assert bits(restored(run_dir)) == bits(state(1))


def test_no_checkpoint_is_no_state(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.restore(abstract(state(1))) is None
    assert "none yet" in checkpoints.newest()
    checkpoints.close()


def test_keeps_the_newest(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    for step in range(1, 6):
        checkpoints.save(state(step), DATA)
        checkpoints.save(state(step), DATA)  # the same step again: the last of a run is saved once
    checkpoints.wait()
    checkpoints.close()
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"4", "5"}


@settings(deadline=None, max_examples=60)
@given(
    dtype=st.sampled_from(["float32", "bfloat16", "int32", "uint8"]),
    shape=st.sampled_from([(), (7,), (2, 3, 4)]),
    data=st.data(),
)
def test_no_single_bit_passes(dtype: str, shape: tuple[int, ...], data: st.DataObject) -> None:
    array = np.asarray(jax.random.randint(jax.random.key(0), shape, 0, 100).astype(dtype))
    raw = bytearray(array.tobytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    flipped = np.frombuffer(bytes(raw), array.dtype).reshape(shape)
    good = checksums({"x": jnp.asarray(array)})
    compare(good, checksums({"x": jnp.asarray(array)}))
    with pytest.raises(ValueError, match="checksum mismatch in"):
        compare(good, checksums({"x": jnp.asarray(flipped)}))


def test_sums_do_not_depend_on_the_mesh() -> None:
    array = jax.random.normal(jax.random.key(0), (16, 8))
    plain = checksums({"x": array})
    for sizes, axes in [((8, 1, 1, 1), ("data",)), ((2, 2, 2, 1), (("data", "fsdp"), "tensor"))]:
        mesh = make_mesh(*sizes)
        assert checksums({"x": jax.device_put(array, NamedSharding(mesh, P(*axes)))}) == plain


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_all_finite(bad: float) -> None:
    tree = {"a": jnp.ones((3,)), "b": jnp.zeros((2, 2), jnp.bfloat16)}
    assert all_finite(tree)
    assert not all_finite(tree | {"b": tree["b"].at[1, 1].set(bad)})
