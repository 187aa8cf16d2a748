"""The tiny run under t5x: its gin file, and t5x configured from gin files in this process."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gin
import pytest
from tiny_run import Tiny

# Two devices along each of three mesh axes: a batch of four is split in four.
T5X = """
from __gin__ import dynamic_registration

import __main__ as train_script
import pagnol_jax.with_t5x
from pagnol_jax.sharding import mesh
from t5x import utils

include 't5x/base.gin'
include '{tiny}'

TOTAL_STEPS = 20
mesh.make_mesh:
    data = 2
    fsdp = 2
    tensor = 2
train_script.train:
    eval_steps = 2
    eval_period = 10
utils.SaveCheckpointConfig.period = 10
"""


@pytest.fixture(scope="session")
def t5x_gin(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gin") / "tiny_t5x.gin"
    path.write_text(T5X.format(tiny=tiny.gin))
    return path


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch, tiny: Tiny) -> Iterator[Callable[..., Any]]:
    """Parses gin files and bindings as `python -m t5x.train` does."""
    pytest.importorskip("t5x.train")
    from t5x import gin_utils, train

    monkeypatch.setenv("PAGNOL_CACHE", str(tiny.folder / "cache"))
    monkeypatch.setitem(sys.modules, "__main__", train)

    def parse(*files: Path | str, bindings: tuple[str, ...] = ()) -> None:
        gin.clear_config()
        paths = [".", os.path.dirname(os.path.dirname(train.__file__))]
        bindings = ("MODEL_DIR = 'unused'", *bindings)
        gin_utils.parse_gin_flags(paths, [str(file) for file in files], list(bindings), finalize_config=False)

    yield parse
    gin.clear_config()
