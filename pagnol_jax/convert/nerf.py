"""NeRF checkpoints of krrish94/nerf-pytorch and of the DFA study, which share a format: torch's `.ckpt` files with
`model_coarse_state_dict` and `model_fine_state_dict`. The file does not tell the activation of the first layer.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from pagnol_jax.convert import tensors
from pagnol_jax.convert.table import Row, linear, weight_and_bias
from pagnol_jax.errors import UserError
from pagnol_jax.models import store
from pagnol_jax.models.zoo import nerf

NETWORKS = ("coarse", "fine")


def rows(model: nerf.Nerf) -> list[Row]:
    """The table, for one network."""
    hidden = {f"layers_xyz.{index}": f"layers_xyz_{index}/dense" for index in range(model.depth - 1)}
    ours = {"layer1": "layer1/dense"} | hidden | {"fc_feat": "fc_feat/dense", "layers_dir.0": "layers_dir_0/dense"}
    heads = {"fc_alpha": "fc_alpha", "fc_rgb": "fc_rgb"}
    return [row for theirs, path in (ours | heads).items() for row in linear(weight_and_bias(theirs), (path,))]


def read(path: str | Path, model: nerf.Nerf) -> dict[str, Any]:
    """Parameters of {"coarse", "fine"} from a torch `.ckpt` or from our `.safetensors`, as numpy arrays.

    Raises UserError where the file is missing, corrupt, or not of `model`.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        params = store.unflatten(store.read_safetensors(path))
    else:
        found = tensors.load_torch(path)
        if not isinstance(found, dict) or not all(_key(name) in found for name in NETWORKS):
            raise UserError(f"{path}: not a NeRF checkpoint: no {_key('coarse')} and {_key('fine')}")
        params = {name: _to_ours(tensors.state_dict(found[_key(name)], path), model, path) for name in NETWORKS}
    check(params, model, str(path))
    return params


def write(path: str | Path, model: nerf.Nerf, params: dict[str, Any]) -> None:
    """Writes a torch `.ckpt` that both codes load, or a `.safetensors`; the file appears only when it is whole.

    Raises UserError where it cannot.
    """
    path = Path(path)
    check(params, model, str(path))
    if path.suffix == ".safetensors":
        with store.new_file(path) as unfinished:
            save_file(store.flatten(params), unfinished)
    elif path.suffix == ".ckpt":
        tensors.write_torch(path, {_key(name): _to_theirs(params[name], model) for name in NETWORKS})
    else:
        raise UserError(f"{path}: give a file of suffix .ckpt or .safetensors")


def check(params: dict[str, Any], model: nerf.Nerf, where: str) -> None:
    """Raises UserError where parameters are not those of a coarse and a fine `model`."""
    expected = store.flatten_shapes(jax.eval_shape(lambda: nerf.init(model, jax.random.key(0))))
    found = store.flatten_shapes(params)
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise UserError(
                f"{where} is not of the network configured: {name} is {_told(found.get(name))} there, "
                f"{_told(expected.get(name))} here"
            )


def _told(shape: tuple[int, ...] | None) -> str:
    return "not" if shape is None else f"{list(shape)}"


def _key(name: str) -> str:
    return f"model_{name}_state_dict"


def _to_ours(theirs: store.Flat, model: nerf.Nerf, path: Path) -> dict[str, Any]:
    table = rows(model)
    names = [row.theirs for row in table]
    if missing := [name for name in names if name not in theirs]:
        raise UserError(f"{path} is not of the network configured: {store.some(missing)} missing")
    if unknown := sorted(theirs.keys() - set(names)):
        raise UserError(f"{path} is not of the network configured: it holds {store.some(unknown)}")
    return store.unflatten(
        {row.ours[0]: np.ascontiguousarray(row.layout.split(theirs[row.theirs])[0]) for row in table}
    )


def _to_theirs(params: dict[str, Any], model: nerf.Nerf) -> store.Flat:
    flat = store.flatten(params)
    return {row.theirs: np.ascontiguousarray(row.layout.join(flat[row.ours[0]])) for row in rows(model)}
