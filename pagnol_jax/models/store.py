"""A model as a folder: `model.json` (the configuration), `model.safetensors`, `tokenizer.json` if it has one.

Tensors keep the paths of the parameter tree ('blocks/attention/query/kernel') and the dtype they come in,
float32 or bfloat16. No pickle, no torch.
"""

import contextlib
import functools
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pagnol_jax.errors import UserError
from pagnol_jax.models import gpt
from pagnol_jax.models.config import GPTConfig

CONFIG, WEIGHTS, TOKENIZER = "model.json", "model.safetensors", "tokenizer.json"

Params = dict[str, Any]
Flat = dict[str, np.ndarray]


def save(folder: str | Path, config: GPTConfig, params: Params, tokenizer_file: str | Path | None = None) -> None:
    """Writes the model to a new folder, which appears only when it is whole.

    Raises UserError where the folder exists and is not empty, cannot be written, or where the parameters are
    not those of `config`.
    """
    flat = flatten(params)
    check_shapes(flat, config, str(folder))
    with new_folder(folder) as unfinished:
        (unfinished / CONFIG).write_text(json.dumps(config.to_json(), indent=2) + "\n")
        save_file(flat, unfinished / WEIGHTS)
        if tokenizer_file is not None:
            shutil.copyfile(tokenizer_file, unfinished / TOKENIZER)


def load(folder: str | Path) -> tuple[GPTConfig, Params, Path | None]:
    """(configuration, parameters as numpy arrays, path of the tokenizer or None).

    Raises UserError for a missing or corrupt file, an unknown or missing name, and a wrong shape.
    """
    folder = Path(folder)
    config = GPTConfig.from_json(read_json(folder / CONFIG))
    flat = read_safetensors(folder / WEIGHTS)
    check_shapes(flat, config, str(folder / WEIGHTS))
    tokenizer = folder / TOKENIZER
    return config, unflatten(flat), tokenizer if tokenizer.exists() else None


def flatten(params: Params) -> Flat:
    """Parameter tree -> {'blocks/mlp/up/kernel': C-contiguous array}."""
    return {k: np.ascontiguousarray(v) for k, v in flatten_dict(nn.unbox(params), sep="/").items()}


def unflatten(flat: Mapping[str, Any]) -> Params:
    """Inverse of `flatten`."""
    return unflatten_dict(dict(flat), sep="/")


@functools.lru_cache
def shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """{path: shape} of every parameter, asked of the model itself; nothing is allocated."""
    return flatten_shapes(jax.eval_shape(lambda: nn.unbox(gpt.init(config, jax.random.key(0)))))


def flatten_shapes(tree: Params) -> dict[str, tuple[int, ...]]:
    """{path: shape} of a tree of arrays or of their shapes."""
    return {path: leaf.shape for path, leaf in flatten_dict(tree, sep="/").items()}


def check_shapes(flat: Flat, config: GPTConfig, where: str) -> None:
    """Raises UserError where names or shapes are not those of the configuration."""
    expected = shapes(config)
    if missing := sorted(expected.keys() - flat.keys()):
        raise UserError(f"{where}: {some(missing)} missing")
    if unknown := sorted(flat.keys() - expected.keys()):
        raise UserError(f"{where}: {some(unknown)} not in this model")
    for name, shape in expected.items():
        if flat[name].shape != shape:
            raise UserError(f"{where}: {name} has shape {flat[name].shape}, its configuration asks for {shape}")


def some(names: list[str]) -> str:
    """'a', or 'a and 3 more'."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises UserError where the file is missing or is not one."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise UserError(f"{path}: not a JSON object")
    return fields


def read_safetensors(path: Path) -> Flat:
    """Every tensor of a safetensors file. Raises UserError where it is missing or corrupt."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not iterable itself)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a whole safetensors file: {error}") from error


@contextlib.contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """Yields an empty folder that takes the name `folder` once the block has ended well, or else vanishes."""
    folder = Path(folder).absolute()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} exists already: remove it or name another folder")
    unfinished = folder.with_name(folder.name + ".unfinished")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        yield unfinished
        os.replace(unfinished, folder)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yields a path beside `path`; what is written there takes its name once the block has ended well, or vanishes."""
    if path.exists():
        raise UserError(f"{path} exists already: remove it or name another file")
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        unfinished.replace(path)
    except (OSError, SafetensorError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise UserError(f"{path}: cannot be written: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)
