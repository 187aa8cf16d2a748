"""NeRF checkpoints of PyTorch: there and back, bit for bit, and no code of the file's runs."""

import pickle
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from pagnol_jax.convert import nerf as format
from pagnol_jax.errors import UserError
from pagnol_jax.models.zoo import nerf

MODEL = nerf.Nerf(depth=3, width=16, skips=(2,), octaves=(2, 1))


@pytest.fixture(scope="module")
def params() -> dict[str, Any]:
    return jax.device_get(nerf.init(MODEL, jax.random.key(0)))


def same(a: Any, b: Any) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_there_and_back(tmp_path: Path, params: dict[str, Any], suffix: str) -> None:
    file = tmp_path / f"x{suffix}"
    format.write(file, MODEL, params)
    assert same(format.read(file, MODEL), params)
    with pytest.raises(UserError, match="exists already"):
        format.write(file, MODEL, params)


def test_torch_sees_its_own_names(tmp_path: Path, params: dict[str, Any]) -> None:
    """A network of torch's own, with the names of krrish94's FlexibleNeRFModel, takes the weights and the Linear of a
    layer computes what ours does."""
    format.write(tmp_path / "x.ckpt", MODEL, params)
    state = torch.load(tmp_path / "x.ckpt", weights_only=True)["model_fine_state_dict"]
    theirs = torch.nn.ModuleDict(
        {
            "layer1": torch.nn.Linear(15, 16),
            "layers_xyz": torch.nn.ModuleList([torch.nn.Linear(16, 16), torch.nn.Linear(31, 16)]),
            "fc_feat": torch.nn.Linear(16, 16),
            "fc_alpha": torch.nn.Linear(16, 1),
            "layers_dir": torch.nn.ModuleList([torch.nn.Linear(16 + 9, 8)]),
            "fc_rgb": torch.nn.Linear(8, 3),
        }
    )
    theirs.load_state_dict(state)
    x = np.random.default_rng(0).normal(size=(4, 31)).astype(np.float32)
    layer = nerf.Layer(16)
    ours = layer.apply({"params": params["fine"]["layers_xyz_1"]}, x)
    np.testing.assert_allclose(ours, torch.relu(theirs["layers_xyz"][1](torch.tensor(x))).detach(), atol=1e-6)


@pytest.mark.parametrize("file", ["synth_lego_dfa.ckpt", "krrish94_lego_lowres_bp_checkpoint199999.ckpt"])
def test_released_weights_survive_the_way_there_and_back(data_dir: Path, tmp_path: Path, file: str) -> None:
    path, model = data_dir / "nerf" / "checkpoints" / file, nerf.Nerf()
    format.write(tmp_path / "x.ckpt", model, format.read(path, model))
    before, after = (torch.load(each, "cpu", weights_only=True) for each in (path, tmp_path / "x.ckpt"))
    for name in ("model_coarse_state_dict", "model_fine_state_dict"):
        assert before[name].keys() == after[name].keys()
        assert all(torch.equal(tensor, after[name][key]) for key, tensor in before[name].items())


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path("exploded"),)


def test_what_is_wrong_is_told(tmp_path: Path, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    whole = tmp_path / "whole.ckpt"
    format.write(whole, MODEL, params)
    (tmp_path / "cut.ckpt").write_bytes(whole.read_bytes()[:1000])
    (tmp_path / "bomb.ckpt").write_bytes(pickle.dumps({"model_coarse_state_dict": Bomb()}, protocol=2))
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.ckpt")
    for name, said in (
        ("none", "no such file"),
        ("cut", "not a file of torch tensors alone"),
        ("bomb", "not a file of torch tensors alone"),
        ("other", "not a NeRF checkpoint: no model_coarse_state_dict and model_fine_state_dict"),
    ):
        with pytest.raises(UserError, match=said) as error:
            format.read(tmp_path / f"{name}.ckpt", MODEL)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "exploded").exists()
    with pytest.raises(UserError, match=r"layers_xyz\.2\.weight and 1 more missing"):
        format.read(whole, nerf.Nerf(depth=4, width=16, skips=(2,), octaves=(2, 1)))
    with pytest.raises(UserError, match=r"coarse/fc_alpha/kernel is \[16, 1\] there, \[32, 1\] here"):
        format.read(whole, nerf.Nerf(depth=3, width=32, skips=(2,), octaves=(2, 1)))
    with pytest.raises(UserError, match=r"give a file of suffix \.ckpt or \.safetensors"):
        format.write(tmp_path / "x.npz", MODEL, params)


@pytest.mark.parametrize("error", [SafetensorError("No space left on device"), OSError(28, "No space left on device")])
def test_a_safetensors_is_whole_or_not_there(
    tmp_path: Path, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def half(tensors: Any, path: Path) -> None:
        Path(path).write_text("half")
        raise error

    monkeypatch.setattr(format, "save_file", half)
    with pytest.raises(UserError, match=r"x\.safetensors: cannot be written: .*No space left on device"):
        format.write(tmp_path / "x.safetensors", MODEL, params)
    assert not list(tmp_path.iterdir())
