"""The notebooks of colab/, each executed whole in a fresh kernel at small size, once a session."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import numpy as np
import pytest
import tiny_run
from nbclient import NotebookClient

from benchmarks.published.simulate import grid, losses
from pagnol_jax.data.debian import PACKAGES

# Training on a built cache needs no TensorFlow; without it TensorBoard's writer does not take the tests' time.
QUICK_TRAINING = """
import sys
if {"train", "ladder"} & set(sys.orig_argv):
    for name in ("tensorflow", "seqio"):
        sys.modules[name] = None
"""


class Executed(NamedTuple):
    """A notebook after its execution, and the folder that it worked in."""

    notebook: Any
    folder: Path

    def printed(self, holding: str) -> str:
        """What the one code cell whose source holds a text has printed."""
        (cell,) = [c for c in self.notebook.cells if c.cell_type == "code" and holding in c.source]
        return "".join(output.text for output in cell.outputs if output.output_type == "stream")

    @property
    def figures(self) -> int:
        outputs = [output for cell in self.notebook.cells for output in cell.get("outputs", [])]
        return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in, and an environment in which notebooks are small and touch no network."""
    folder = tmp_path_factory.mktemp("notebooks")
    corpus = folder / "cache" / "debian_fr"  # what `debian_fr` fetches, as if fetched
    corpus.mkdir(parents=True)
    lines = tiny_run.sentences().splitlines(keepends=True)
    for index, package in enumerate(PACKAGES):
        (corpus / f"{package}.jsonl").write_text("".join(lines[index :: len(PACKAGES)]), encoding="utf-8")
    shim = folder / "shim"
    shim.mkdir()
    (shim / "sitecustomize.py").write_text(QUICK_TRAINING)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAGNOL_SMALL", "1")
        patch.setenv("PAGNOL_CACHE", str(folder / "cache"))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(tiny_run.ROOT), str(shim)]))
        cheap = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
        patch.setenv("XLA_FLAGS", f"{cheap} --xla_force_host_platform_device_count=2")
        for name in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):  # this environment's kernel, no other
            patch.setenv(name, str(folder / name.lower()))
        yield folder


@pytest.fixture(scope="session")
def public_runs(small: Path) -> Path:
    """A folder for $PAGNOL_DATA_DIR: the real one, or else one whose Chinchilla table follows Hoffmann's law."""
    real = os.environ.get("PAGNOL_DATA_DIR")
    table = Path("scaling/kyo_takano_chinchilla/df.csv")
    if real and (Path(real) / table).is_file():
        return Path(real)
    path = small / "data" / table
    path.parent.mkdir(parents=True)
    inputs = grid(8, 8)
    columns = [6 * inputs["N"] * inputs["D"], inputs["N"], inputs["D"], losses(inputs)]
    np.savetxt(path, np.stack(columns, axis=1), delimiter=",", header="C,N,D,loss", comments="")
    return small / "data"


@pytest.fixture(scope="session")
def execute(small: Path) -> Callable[[str], Executed]:
    """Executes colab/NAME.ipynb in a folder of its own; a cell that raises is an error."""

    def run(name: str) -> Executed:
        folder = small / name
        folder.mkdir()
        notebook = nbformat.read(tiny_run.ROOT / "colab" / f"{name}.ipynb", 4)
        where = {"metadata": {"path": str(folder)}}
        NotebookClient(notebook, timeout=900, kernel_name="python3", resources=where).execute()
        return Executed(notebook, folder)

    return run
