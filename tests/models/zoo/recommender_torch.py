"""Click models in PyTorch, written from the papers' equations, with weights taken from the Flax modules.

Every value that a rule may tap goes through `point(name, value)`.
"""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

Point = Callable[[str, torch.Tensor], torch.Tensor]


def passed(name: str, value: torch.Tensor) -> torch.Tensor:
    """No rule: backpropagation."""
    return value


class Net(nn.Module):
    """What all have: a table for every field, and the first order."""

    def __init__(self, flax: Any) -> None:
        super().__init__()
        self.sizes = list(flax.sizes)
        self.tables = nn.ModuleList(nn.Embedding(size, flax.embed) for size in self.sizes)
        self.weights = nn.ModuleList(nn.Embedding(size, 1) for size in self.sizes)
        self.bias = nn.Parameter(torch.zeros(1))

    def vectors(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.stack([table(ids[:, i]) for i, table in enumerate(self.tables)], dim=1)  # [B, F, E]

    def first_order(self, ids: torch.Tensor) -> torch.Tensor:
        return sum(weight(ids[:, i]) for i, weight in enumerate(self.weights)) + self.bias  # [B, 1]


def pairs(vectors: torch.Tensor) -> torch.Tensor:
    """Rendle 2010, eq. 1: every pair's inner product."""
    fields = vectors.shape[1]
    total = torch.zeros(len(vectors))
    for i in range(fields):
        for j in range(i + 1, fields):
            total = total + (vectors[:, i] * vectors[:, j]).sum(1)
    return total[:, None]


class Perceptron(nn.Module):
    def __init__(self, inputs: int, features: tuple[int, ...], output: bool) -> None:
        super().__init__()
        widths = [inputs, *features]
        self.dense = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.norm = nn.ModuleList(nn.BatchNorm1d(width) for width in features)
        self.last = nn.Linear(widths[-1], 1) if output else nn.Identity()

    def forward(self, x: torch.Tensor, point: Point) -> torch.Tensor:
        for i, (dense, norm) in enumerate(zip(self.dense, self.norm, strict=True)):
            x = point(f"mlp/layer_{i}", torch.relu(norm(dense(x))))
        return self.last(x)


class FM(Net):
    def forward(self, ids: torch.Tensor, point: Point = passed) -> torch.Tensor:
        return self.first_order(ids) + pairs(self.vectors(ids))


class DeepFM(Net):
    def __init__(self, flax: Any) -> None:
        super().__init__(flax)
        self.mlp = Perceptron(len(self.sizes) * flax.embed, flax.mlp, True)

    def forward(self, ids: torch.Tensor, point: Point = passed) -> torch.Tensor:
        vectors = self.vectors(ids)
        deep = self.mlp(point("mlp_input", vectors.flatten(1)), point)
        return self.first_order(ids) + pairs(vectors) + point("mlp", deep)


class DeepCross(Net):
    def __init__(self, flax: Any) -> None:
        super().__init__(flax)
        width = len(self.sizes) * flax.embed
        self.cross_weight = nn.ParameterList(torch.zeros(width) for _ in range(flax.cross))
        self.cross_bias = nn.ParameterList(torch.zeros(width) for _ in range(flax.cross))
        self.mlp = Perceptron(width, flax.mlp, False)
        self.output = nn.Linear(width + flax.mlp[-1], 1)

    def forward(self, ids: torch.Tensor, point: Point = passed) -> torch.Tensor:
        first = point("embedding", self.vectors(ids).flatten(1))
        crossed = first
        for i, (weight, bias) in enumerate(zip(self.cross_weight, self.cross_bias, strict=True)):
            # Wang et al. 2017, eq. 3, as the outer product that it is
            outer = torch.einsum("bi,bj->bij", first, crossed)
            crossed = point(f"cross_{i}", outer @ weight + bias + crossed)
        stack = point("stack", torch.cat([crossed, self.mlp(first, point)], dim=1))
        return point("", self.output(stack))


class AutoInt(Net):
    def __init__(self, flax: Any) -> None:
        super().__init__(flax)
        fields, width = len(self.sizes), flax.attention_embed
        self.attention_embedding = nn.Linear(flax.embed, width)
        self.attention = nn.ModuleList(
            nn.MultiheadAttention(width, flax.heads, batch_first=True) for _ in range(flax.attention)
        )
        self.residual = nn.Linear(flax.embed, width)
        self.attention_output = nn.Linear(fields * width, 1)
        self.mlp = Perceptron(fields * flax.embed, flax.mlp, True)

    def forward(self, ids: torch.Tensor, point: Point = passed) -> torch.Tensor:
        vectors = point("embedding", self.vectors(ids))
        x = point("attention_embedding", self.attention_embedding(vectors))
        for i, attention in enumerate(self.attention):
            x = point(f"attention_{i}", attention(x, x, x, need_weights=False)[0])
        x = point("attended", torch.relu(x + self.residual(vectors)).flatten(1))
        deep = self.mlp(vectors.flatten(1), point)
        return point("", self.first_order(ids) + self.attention_output(x) + deep)


class AFN(Net):
    def __init__(self, flax: Any) -> None:
        super().__init__(flax)
        self.powers = nn.Parameter(torch.zeros(flax.neurons, len(self.sizes)))
        self.mlp = Perceptron(flax.neurons * flax.embed, flax.mlp, True)

    def forward(self, ids: torch.Tensor, point: Point = passed) -> torch.Tensor:
        vectors = point("embedding", self.vectors(ids))
        logarithms = torch.log(1 + vectors.abs() + 1e-7)
        # Cheng et al. 2020, eq. 6: a neuron is the product over fields of what its powers make of them
        neurons = [torch.exp((power[:, None] * logarithms).sum(1)) - 1 for power in self.powers]
        products = torch.relu(torch.stack(neurons, dim=1))
        return point("", self.first_order(ids) + self.mlp(point("logarithmic", products).flatten(1), point))


def from_flax(flax: Any, params: Any) -> dict[str, np.ndarray]:
    """{name of a torch parameter: array} of Flax parameters (or their gradients: the same names)."""
    bounds = np.cumsum(flax.sizes)[:-1]
    found = {}
    for name, key in (("tables", params.get("embedding")), ("weights", params.get("linear", {}).get("table"))):
        if key is not None:
            pieces = np.split(np.asarray(key["embedding"]), bounds)
            found |= {f"{name}.{i}.weight": piece for i, piece in enumerate(pieces)}
    if "linear" in params:
        found["bias"] = params["linear"]["bias"]
    for name in ("output", "attention_embedding", "residual", "attention_output"):
        if name in params:
            found |= _dense(name, params[name])
    for i in range(getattr(flax, "cross", 0)):
        found[f"cross_weight.{i}"] = params[f"cross_{i}"]["weight"][:, 0]
        found[f"cross_bias.{i}"] = params[f"cross_{i}"]["bias"]
    for i in range(getattr(flax, "attention", 0)):
        layer = params[f"attention_{i}"]
        mixed = _dense("", layer["query_key_value"])
        found |= {f"attention.{i}.in_proj_weight": mixed[".weight"], f"attention.{i}.in_proj_bias": mixed[".bias"]}
        found |= _dense(f"attention.{i}.out_proj", layer["output"])
    if "logarithmic" in params:
        found["powers"] = params["logarithmic"]["weight"]
    for name, layer in params.get("mlp", {}).items():
        if name == "output":
            found |= _dense("mlp.last", layer)
        else:
            i = name.removeprefix("layer_")
            found |= _dense(f"mlp.dense.{i}", layer["dense"])
            found |= {f"mlp.norm.{i}.weight": layer["norm"]["scale"], f"mlp.norm.{i}.bias": layer["norm"]["bias"]}
    return {name: np.asarray(value) for name, value in found.items()}


def _dense(name: str, layer: Any) -> dict[str, np.ndarray]:
    return {f"{name}.weight": np.asarray(layer["kernel"]).T, f"{name}.bias": layer["bias"]}


def loaded(flax: Any, variables: Any) -> Net:
    """The torch twin of a Flax module, with its weights and running statistics."""
    net = globals()[type(flax).__name__](flax)
    state = {name: torch.tensor(value) for name, value in from_flax(flax, variables["params"]).items()}
    for name, layer in variables.get("batch_stats", {}).get("mlp", {}).items():
        i = name.removeprefix("layer_")
        state[f"mlp.norm.{i}.running_mean"] = torch.tensor(np.asarray(layer["norm"]["mean"]))
        state[f"mlp.norm.{i}.running_var"] = torch.tensor(np.asarray(layer["norm"]["var"]))
    missing, unexpected = net.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("num_batches_tracked" in name or name in _unused(flax) for name in missing)
    return net


def _unused(flax: Any) -> set[str]:
    """Deep & Cross has no first order of its own."""
    names = {f"weights.{i}.weight" for i in range(len(flax.sizes))} | {"bias"}
    return names if type(flax).__name__ == "DeepCross" else set()
