"""The tensors of a folder, by name: safetensors in one file or many, or torch's files read without pickle."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from pagnol_jax.errors import UserError
from pagnol_jax.models.store import Flat, new_file, read_json, read_safetensors


def read_folder(folder: Path) -> Flat:
    """Every tensor of `model.safetensors` or its shards, or else of `pytorch_model.bin` or its shards."""
    readers: tuple[tuple[str, Callable[[Path], Flat]], ...] = (
        ("model.safetensors", read_safetensors),
        ("pytorch_model.bin", read_torch),
    )
    for name, read in readers:
        if (folder / name).exists():
            return read(folder / name)
        if (folder / f"{name}.index.json").exists():
            return _read_shards(folder / f"{name}.index.json", read)
    raise UserError(f"{folder} holds neither model.safetensors nor pytorch_model.bin")


def _read_shards(index: Path, read: Callable[[Path], Flat]) -> Flat:
    """The files that an index names. Raises UserError where they do not hold all that it lists."""
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict):
        raise UserError(f"{index} has no weight_map")
    tensors: Flat = {}
    for shard in sorted(set(where.values())):
        if Path(shard).name != shard:
            raise UserError(f"{index} names a file outside its folder: {shard}")
        tensors |= read(index.parent / shard)
    if missing := sorted(where.keys() - tensors.keys()):
        raise UserError(f"{index.parent}: no shard holds {missing[0]}, which {index.name} lists")
    return tensors


def read_torch(path: Path) -> Flat:
    """A dictionary of tensors saved by torch, read with `weights_only`: no code in the file runs.

    Raises UserError where torch is missing, or the file is missing, corrupt, or holds anything else.
    """
    return state_dict(load_torch(path), path)


def load_torch(path: Path) -> Any:
    """Whatever tensors, numbers, lists and dictionaries torch saved, as torch has them.

    Raises UserError as `read_torch` does.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    torch = _torch(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types, pickle's among them
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: not a file of torch tensors alone: {line}") from error


def state_dict(tensors: Any, path: Path) -> Flat:
    """torch's tensors by name as arrays. Raises UserError where they are anything else."""
    torch = _torch(path)
    if not isinstance(tensors, dict) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        raise UserError(f"{path}: not a state dictionary of tensors")
    return {name: _to_numpy(tensor, torch) for name, tensor in tensors.items()}


def write_torch(path: Path, tensors: Mapping[str, np.ndarray | Flat]) -> None:
    """Inverse of `read_torch`, dictionaries in a dictionary too; the file appears only when it is whole.

    Raises UserError where it cannot.
    """
    torch = _torch(path)
    with new_file(path) as unfinished:
        torch.save(_to_torch(tensors, torch), unfinished)


def _to_numpy(tensor, torch) -> np.ndarray:
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:  # numpy has no bfloat16 of its own
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _to_torch(array: np.ndarray | Mapping, torch):
    if isinstance(array, Mapping):
        return {name: _to_torch(each, torch) for name, each in array.items()}
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def _torch(path: Path):
    try:
        import torch
    except ImportError as error:
        raise UserError(f"{path}: torch files need torch: pip install 'pagnol_jax[convert]'") from error
    return torch
