"""Every gin file: models against the paper's table, runs and ladders for two real steps or traced whole."""

import contextlib
from pathlib import Path
from typing import Any

import flax.linen as nn
import gin
import jax
import pytest
from data.toy_cache import toy_documents, write_cache

from pagnol_jax.cli import gin_files, ladder
from pagnol_jax.data.batches import Batch, MixtureBatches
from pagnol_jax.errors import UserError
from pagnol_jax.models import gpt
from pagnol_jax.models.config import GPTConfig
from pagnol_jax.models.kernels import plain
from pagnol_jax.sharding import mesh as meshes
from pagnol_jax.train import run
from pagnol_jax.train.optimizer import adamw, warmup_cosine
from pagnol_jax.train.step import make_steps

GIN = gin_files.SEARCH_PATH[0]
SMALL = ["BATCH_SIZE=8", "LENGTH=8", "TOTAL_STEPS=2", "WARMUP_STEPS=1"]
SCANNED = "config.GPTConfig.unroll=1"  # quicker to compile
# Launay et al. 2022, table 3, which counts the vocabulary once; XXS and XS as read off figure 1.
PAPER = {"s": 124e6, "m": 355e6, "l": 773e6, "xl": 1.5e9}
FIGURE = {"xxs": 21.23e6, "xs": 42.47e6, "s": 84.93e6, "m": 301.99e6}


def names(folder: str, pattern: str = "*.gin") -> list[str]:
    return sorted(str(path.relative_to(GIN)) for path in (GIN / folder).glob(pattern))


def configured(*files: str, bindings: tuple[str, ...] = ()) -> GPTConfig:
    gin_files.parse(files, bindings, whole=False)
    return gin.get_configurable(GPTConfig)(vocab_size=50_262)


@pytest.fixture
def toy_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the mixture, batches come from a toy cache."""
    cache = write_cache(tmp_path / "cache", toy_documents())
    monkeypatch.setenv("PAGNOL_DATA_DIR", str(tmp_path))
    rates = {"a": 1.0, "b": 1.0}
    monkeypatch.setattr(run, "open_batches", lambda mixture, **sizes: MixtureBatches(cache, rates, **sizes))


@pytest.mark.parametrize("size", PAPER)
def test_pagnol_sizes_are_the_paper_s(size: str) -> None:
    config = configured(f"models/pagnol_{size}.gin")
    once = config.parameters() - 50_262 * config.d_model
    assert once == pytest.approx(PAPER[size], rel=0.05 if size == "xl" else 0.005)


@pytest.mark.parametrize("size", FIGURE)
def test_pagnol_block_weights_are_the_figure_s(size: str) -> None:
    config = configured(f"models/pagnol_{size}.gin")
    assert config.matmul_parameters(embedding=False) == pytest.approx(FIGURE[size], rel=1e-3)


@pytest.mark.parametrize("file", names("models", "*_*.gin"))
def test_models_trace(file: str) -> None:
    config = configured(file)
    shapes = jax.eval_shape(lambda: nn.unbox(gpt.init(config, jax.random.key(0))))
    assert config.parameters() == sum(x.size for x in jax.tree.leaves(shapes))


@pytest.mark.parametrize("file", names("runs", "*_*.gin"))
def test_runs_lower_at_their_own_sizes(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The very step of the run, at its batch, length and precision, on eight devices."""
    monkeypatch.setattr(plain, "QUERY_BLOCK", 4096)  # fewer blocks to trace
    gin_files.parse([file, "mesh/fsdp.gin"], [])
    length, batch_size = (
        gin.query_parameter("LENGTH/macro.value"),
        gin.query_parameter("BATCH_SIZE/macro.value"),
    )
    config = gin.get_configurable(GPTConfig)(vocab_size=50_262)
    mesh = gin.get_configurable(meshes.make_mesh)()
    steps = make_steps(config, gin.get_configurable(adamw)(), mesh)
    leaf = {
        d: jax.ShapeDtypeStruct((batch_size, length), d, sharding=steps.batch_sharding) for d in ("int32", "float32")
    }
    batch = Batch(*[leaf["int32"]] * 4, leaf["float32"])
    with jax.set_mesh(mesh):
        assert "stablehlo" in steps.train.lower(steps.abstract_state, batch).as_text()


def tables() -> dict[str, dict[str, Any]]:
    """RUNGS of every gin file that has them."""
    found: dict[str, dict[str, Any]] = {}
    for file in names("ladders") + names("dfa/law") + ["dfa/gpt/study.gin", "dfa/gpt/sweep.gin"]:
        gin_files.parse([file], [], whole=False)
        with contextlib.suppress(UserError):  # a base that other ladders include
            found[file] = ladder.rungs(file)
    return found


TABLES = tables()
# These leave the language to the command.
DATA = {file: ["data/matched_fr.gin"] for file in TABLES if "matched" in file or file.startswith("dfa/")}


def rungs() -> list[Any]:
    """Of every ladder, the first rung of each model; fast is one of two ladders."""
    pairs = []
    for file, table in TABLES.items():
        each = list({cells[0]: name for name, cells in reversed(table.items())}.values())
        fast = file in ("ladders/demo.gin", "dfa/gpt/study.gin") and each[0]
        pairs += [pytest.param(file, name, marks=[] if name == fast else pytest.mark.slow) for name in each]
    return pairs


@pytest.mark.parametrize("file", TABLES)
def test_rungs_parse_whole(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGNOL_DATA_DIR", "data")
    for cells in TABLES[file].values():
        gin_files.parse([file], [], whole=False)
        files, bindings = ladder.settings(cells)
        gin_files.parse([file, *DATA.get(file, []), *files], bindings)
        steps = gin.query_parameter("TOTAL_STEPS/macro.value")
        assert 0 < gin.get_configurable(warmup_cosine)().function(steps // 2) < 0.1


@pytest.mark.usefixtures("toy_batches")
@pytest.mark.parametrize(("file", "rung"), rungs())
def test_rungs_train_two_steps(file: str, rung: str, tmp_path: Path) -> None:
    gin_files.parse([file], [], whole=False)
    files, bindings = ladder.settings(TABLES[file][rung])
    gin_files.parse([file, *DATA.get(file, []), *files], [*bindings, *SMALL, SCANNED])
    assert gin_files.call(run.train, run_dir=str(tmp_path / "run")) is None
    assert (tmp_path / "run" / "checkpoints" / "2").is_dir()


@pytest.mark.usefixtures("toy_batches")
def test_the_first_run_trains_two_steps(tmp_path: Path) -> None:
    gin_files.parse(["runs/demo.gin"], SMALL)
    assert gin_files.call(run.train, run_dir=str(tmp_path / "run")) is None
    gin_files.parse(["runs/demo.gin"], [*SMALL, SCANNED, "TOTAL_STEPS=3"])
    assert gin_files.call(run.train, run_dir=str(tmp_path / "run")) is None  # unrolling is not another model


@pytest.mark.usefixtures("toy_batches")
@pytest.mark.parametrize("file", ["runs/pagnol_xxs.gin"])
@pytest.mark.parametrize("mesh", names("mesh"))
def test_meshes_train_two_steps(file: str, mesh: str, tmp_path: Path) -> None:
    shape = ["config.GPTConfig.num_layers=4", "config.GPTConfig.d_model=48", "config.GPTConfig.num_heads=4"]
    gin_files.parse([file, mesh], [*SMALL, *shape, SCANNED])
    assert gin_files.call(run.train, run_dir=str(tmp_path / "run")) is None
