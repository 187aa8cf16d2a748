"""NeRF: the released networks and their rendering against plain PyTorch, and gradients by the rule against autograd.

The PyTorch side is written here from the equations alone: nothing of ours runs in it.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn

from pagnol_jax import dfa
from pagnol_jax.convert import nerf as released
from pagnol_jax.data.zoo import blender
from pagnol_jax.dfa import rules
from pagnol_jax.models.zoo import nerf, rendering

FILES = {"synth_lego_dfa.ckpt": True, "krrish94_lego_lowres_bp_checkpoint199999.ckpt": False}  # ReLU after layer1?
Tensors = dict[str, torch.Tensor]


def torch_encode(x: torch.Tensor, octaves: int) -> torch.Tensor:
    parts = [x]
    for octave in range(octaves):
        parts += [torch.sin(2.0**octave * x), torch.cos(2.0**octave * x)]
    return torch.cat(parts, -1)


def torch_layers(w: Tensors, points: torch.Tensor, views: torch.Tensor, first_relu: bool, cut: bool) -> Any:
    """(raw [R, S, 4], outputs of the layers that get feedback), each layer cut from those below if asked."""

    def layer(name: str, x: torch.Tensor, relu: bool = True) -> torch.Tensor:
        y = x @ w[f"{name}.weight"].T + w[f"{name}.bias"]
        return torch.relu(y) if relu else y

    def on(h: torch.Tensor) -> torch.Tensor:
        taps.append(h)
        return h.detach() if cut else h

    taps: list[torch.Tensor] = []
    h = on(layer("layer1", torch_encode(points, 10), first_relu))
    for index in range(3):
        h = on(layer(f"layers_xyz.{index}", h))
    alpha = layer("fc_alpha", h, relu=False)
    feature = on(layer("fc_feat", h))
    view = torch_encode(views, 4)[:, None].expand(*points.shape[:2], 27)
    rgb = layer("fc_rgb", on(layer("layers_dir.0", torch.cat([feature, view], -1))), relu=False)
    return torch.cat([rgb, alpha], -1), taps


def torch_composite(raw: torch.Tensor, z: torch.Tensor, d: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Equation 3 of the paper, sample by sample, on white: (colours [R, 3], weights [R, S])."""
    gaps = torch.cat([z[:, 1:] - z[:, :-1], torch.full_like(z[:, :1], 1e10)], -1) * d.norm(dim=-1, keepdim=True)
    passed, colour, weights = torch.ones_like(z[:, 0]), torch.zeros_like(d), []
    for s in range(z.shape[1]):
        alpha = 1 - torch.exp(-torch.relu(raw[:, s, 3]) * gaps[:, s])
        weights.append(passed * alpha)
        colour = colour + weights[-1][:, None] * torch.sigmoid(raw[:, s, :3])
        passed = passed * (1 - alpha + 1e-10)
    weight = torch.stack(weights, -1)
    return colour + (1 - weight.sum(-1))[:, None], weight


def torch_resample(z: torch.Tensor, weights: torch.Tensor, count: int) -> torch.Tensor:
    """Evenly spaced quantiles of a density that is constant between the middles of z, ray by ray."""
    found = []
    for depths, weight in zip(z, weights, strict=True):
        edges, mass = 0.5 * (depths[1:] + depths[:-1]), weight[1:-1] + 1e-5
        cdf = np.concatenate([[0], np.cumsum((mass / mass.sum()).numpy())])
        found.append(np.interp(np.linspace(0, 1, count), cdf, edges.numpy()))
    return torch.tensor(np.array(found), dtype=torch.float32)


def torch_view(weights: dict[str, Tensors], o: torch.Tensor, d: torch.Tensor, first_relu: bool) -> torch.Tensor:
    views = d / d.norm(dim=-1, keepdim=True)
    z = torch.linspace(2, 6, 64).expand(len(o), 64)
    for name in ("coarse", "fine"):
        points = o[:, None] + d[:, None] * z[..., None]
        raw, _ = torch_layers(weights[name], points, views, first_relu, cut=False)
        colour, weight = torch_composite(raw, z, d)
        if name == "coarse":
            z = torch.cat([z, torch_resample(z, weight, 128)], -1).sort(-1).values
    return colour


def state_dicts(file: Path) -> dict[str, Tensors]:
    whole = torch.load(file, map_location="cpu", weights_only=True)
    return {name: whole[f"model_{name}_state_dict"] for name in ("coarse", "fine")}


@pytest.mark.parametrize("file", FILES)
def test_released_weights_render_as_in_torch(data_dir: Path, file: str) -> None:
    """A crop of 20x20 pixels of the first test view: every value to 2e-3, and the crop to 0.001 dB."""
    path, scene = data_dir / "nerf/checkpoints" / file, blender.load(str(data_dir / "nerf/lego_400"))
    rows, columns = (x.ravel() for x in np.meshgrid(range(180, 200), range(190, 210), indexing="ij"))
    model = nerf.Nerf(first=nn.relu if FILES[file] else (lambda x: x))
    params = released.read(path, model)
    rays = rendering.camera_rays(scene.test.poses[0], columns, rows, scene.test.size, scene.test.focal)
    fields, sampling = nerf.fields(model, params), rendering.blender_sampling()
    ours = np.asarray(jax.jit(lambda r: rendering.render(*fields, r, sampling)[1].colour)(rays))

    pose, focal = torch.tensor(scene.test.poses[0]), 200 / math.tan(0.6911112070083618 / 2)
    local = [[(x - 200) / focal, -(y - 200) / focal, -1.0] for x, y in zip(columns, rows, strict=True)]
    d = torch.tensor(local, dtype=torch.float32) @ pose[:, :3].T
    with torch.no_grad():
        theirs = torch_view(state_dicts(path), pose[:, 3].expand(len(d), 3), d, FILES[file]).numpy()
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
    assert np.abs(ours - theirs).mean() < 1e-5
    truth = scene.test.images[0][rows, columns]
    ours_db, theirs_db = (-10 * np.log10(np.mean((image - truth) ** 2)) for image in (ours, theirs))
    assert abs(ours_db - theirs_db) < 1e-3


def as_torch(params: dict[str, Any], model: nerf.Nerf) -> Tensors:
    """Our parameters under torch's names, requiring gradients."""
    flat = released._to_theirs(params, model)
    return {name: torch.tensor(np.asarray(array), requires_grad=True) for name, array in flat.items()}


@pytest.fixture
def double() -> Iterator[None]:
    """Float64: the gradients of densities are small differences."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def case() -> dict[str, Any]:
    """Eight rays towards the origin, with colours to learn and two small networks that see something."""
    model = nerf.Nerf(width=32)
    rng = np.random.default_rng(0)
    o = rng.normal(size=(8, 3))
    o = 4 * o / np.linalg.norm(o, axis=-1, keepdims=True)
    d = -o / 4 + 0.1 * rng.normal(size=(8, 3))
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), nerf.init(model, jax.random.key(1)))
    for network in params.values():
        network["fc_alpha"]["bias"] = np.full(1, 0.5)
    colours = rng.uniform(size=(8, 3))
    z = np.sort(rng.uniform(2, 6, size=(2, 8, 12)), axis=-1)
    return {"model": model, "params": params, "o": o, "d": d, "colours": colours, "z": z}


def loss(case: dict[str, Any], params: dict[str, Any]) -> jax.Array:
    """Coarse + fine error at given depths."""
    rays = rendering.Rays(case["o"], case["d"], case["d"] / np.linalg.norm(case["d"], axis=-1, keepdims=True))
    sampling, total = rendering.blender_sampling(), jnp.zeros(())
    for z, field in zip(case["z"], nerf.fields(case["model"], params), strict=True):
        total += jnp.mean((rendering.look(field, rays, z, sampling, None).colour - case["colours"]) ** 2)
    return total


def torch_gradients(case: dict[str, Any], matrices: list[np.ndarray] | None) -> dict[str, dict[str, np.ndarray]]:
    """Autograd's of each network, through the layers or by the rule: e B[:, :d] / sqrt(D) at the output of each."""
    o, d, colours = (torch.tensor(case[name]) for name in ("o", "d", "colours"))
    views, found = d / d.norm(dim=-1, keepdim=True), {}
    for index, name in enumerate(("coarse", "fine")):
        weights, z = as_torch(case["params"][name], case["model"]), torch.tensor(case["z"][index])
        raw, taps = torch_layers(
            weights, o[:, None] + d[:, None] * z[..., None], views, first_relu=True, cut=matrices is not None
        )
        raw.retain_grad()
        ((torch_composite(raw, z, d)[0] - colours) ** 2).mean().backward()
        if matrices is not None:
            signal = raw.grad @ torch.tensor(matrices[index], dtype=raw.dtype) / math.sqrt(matrices[index].shape[1])
            for h in taps:
                h.backward(signal[..., : h.shape[-1]])
        found[name] = {key: weight.grad.numpy() for key, weight in weights.items()}
    return found


def assert_same_gradients(case: dict[str, Any], ours: Any, theirs: dict[str, dict[str, np.ndarray]]) -> None:
    for name in ("coarse", "fine"):
        for key, array in released._to_theirs(jax.device_get(ours[name]), case["model"]).items():
            np.testing.assert_allclose(array, theirs[name][key], rtol=1e-7, atol=1e-12, err_msg=f"{name} {key}")


@pytest.mark.usefixtures("double")
def test_backprop_is_autograd_s(case: dict[str, Any]) -> None:
    assert_same_gradients(case, jax.grad(lambda p: loss(case, p))(case["params"]), torch_gradients(case, None))


@pytest.mark.usefixtures("double")
def test_dfa_is_the_rule_in_torch(case: dict[str, Any]) -> None:
    """All 16 tensors of both networks, each with its own error and its own matrix."""
    rule = rules.dfa(nerf.TAPS)
    matrices = nn.unbox(dfa.init(lambda p: loss(case, p), rule, jax.random.key(2))(case["params"]))
    drawn = [np.asarray(x) for x in jax.tree.leaves(matrices)]
    assert [x.shape for x in drawn] == [(4, 32), (4, 32)]
    assert not np.array_equal(*drawn)
    value, grads = dfa.value_and_grad(lambda p: loss(case, p), rule, matrices)(case["params"])
    assert value == pytest.approx(float(loss(case, case["params"])), rel=1e-6)
    theirs = torch_gradients(case, drawn)
    assert_same_gradients(case, grads, theirs)
    backprop = torch_gradients(case, None)
    for key in ("fc_rgb.weight", "fc_alpha.bias"):  # the heads learn as by backprop, the layers do not
        np.testing.assert_allclose(theirs["fine"][key], backprop["fine"][key], rtol=1e-4, atol=1e-8)
    assert not np.allclose(theirs["fine"]["layers_xyz.1.weight"], backprop["fine"]["layers_xyz.1.weight"], rtol=0.1)


def test_sizes_are_the_papers() -> None:
    def count(model: nerf.Nerf) -> int:
        shapes = jax.eval_shape(lambda: nerf.init(model, jax.random.key(0)))
        return sum(math.prod(x.shape) for x in jax.tree.leaves(shapes["fine"]))

    assert count(nerf.Nerf()) == 84_548  # the released networks
    # 8 x 256, the point again at layer 5: 595,844 of the original NeRF, counted there layer by layer.
    assert count(nerf.Nerf(depth=8, width=256, skips=(5,))) == 595_844


def test_encoding_is_torch_s() -> None:
    x = np.random.default_rng(0).uniform(-4, 4, size=(5, 3)).astype(np.float32)
    np.testing.assert_allclose(nerf.encode(jnp.asarray(x), 10), torch_encode(torch.tensor(x), 10), atol=1e-5)
