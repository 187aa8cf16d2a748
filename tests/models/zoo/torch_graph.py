"""The convolutions in plain torch, edge by edge, from their papers: the twins that ours are compared with.

x: [N, F]. edges: int64 [2, E], source and target, both directions, no loops. p: parameters by our names.
"""

from __future__ import annotations

import math

import torch

Parameters = dict[str, torch.Tensor]


def with_loops(edges: torch.Tensor, nodes: int) -> torch.Tensor:
    return torch.cat([edges, torch.arange(nodes).expand(2, nodes)], dim=1)


def degrees(edges: torch.Tensor, nodes: int) -> torch.Tensor:
    return torch.bincount(edges[1], minlength=nodes).float()


def gathered(messages: torch.Tensor, edges: torch.Tensor, nodes: int) -> torch.Tensor:
    """Messages [E, ...] summed at their targets."""
    return torch.zeros(nodes, *messages.shape[1:]).index_add(0, edges[1], messages)


def gcn_weights(edges: torch.Tensor, nodes: int) -> torch.Tensor:
    degree = degrees(edges, nodes)
    return 1 / (degree[edges[0]] * degree[edges[1]]).sqrt()


def gcn(x: torch.Tensor, edges: torch.Tensor, p: Parameters) -> torch.Tensor:
    edges = with_loops(edges, len(x))
    h = x @ p["kernel"]
    return gathered(gcn_weights(edges, len(x))[:, None] * h[edges[0]], edges, len(x)) + p["bias"]


def cheb(x: torch.Tensor, edges: torch.Tensor, p: Parameters) -> torch.Tensor:
    laplacian = torch.diag((degrees(edges, len(x)) > 0).float())
    laplacian[edges[1], edges[0]] -= gcn_weights(edges, len(x))
    scaled = 2 * laplacian / 2 - torch.diag((degrees(edges, len(x)) > 0).float())
    return x @ p["kernel"][0] + scaled @ x @ p["kernel"][1] + p["bias"]


def spline(x: torch.Tensor, edges: torch.Tensor, p: Parameters) -> torch.Tensor:
    degree = degrees(edges, len(x))
    u = (degree[edges[1]] / degree.max())[:, None]
    messages = (1 - u) * (x @ p["kernel"][0])[edges[0]] + u * (x @ p["kernel"][1])[edges[0]]
    mean = gathered(messages, edges, len(x)) / degree.clamp(min=1)[:, None]
    return mean + x @ p["root"] + p["bias"]


def gat(x: torch.Tensor, edges: torch.Tensor, p: Parameters) -> torch.Tensor:
    edges, heads = with_loops(edges, len(x)), len(p["source"])
    h = (x @ p["kernel"]).view(len(x), heads, -1)
    score = (h[edges[0]] * p["source"]).sum(-1) + (h[edges[1]] * p["target"]).sum(-1)
    score = torch.nn.functional.leaky_relu(score, 0.2)
    out = torch.zeros_like(h)
    for node in range(len(x)):
        mine = edges[1] == node
        out[node] = (score[mine].softmax(0)[..., None] * h[edges[0][mine]]).sum(0)
    return out.flatten(1) + p["bias"]


def grouped(x: torch.Tensor, p: Parameters) -> torch.Tensor:
    pieces = x.chunk(len(p["kernel"]), dim=-1)
    return torch.cat([piece @ w for piece, w in zip(pieces, p["kernel"], strict=True)], dim=-1) + p["bias"]


def dna(x: torch.Tensor, edges: torch.Tensor, p: dict[str, Parameters], heads: int = 8) -> torch.Tensor:
    """x: [N, L, F]."""
    nodes, _, width = x.shape
    edges = with_loops(edges, nodes)
    query = grouped(x[edges[1], -1:], p["query"])
    key, value = (grouped(x[edges[0]], p[name]) for name in ("key", "value"))
    query, key, value = (
        part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value)
    )  # [E, H, L, D]
    score = query @ key.transpose(-1, -2) / math.sqrt(width // heads)
    silent = torch.zeros(*score.shape[:-1], 1)
    weight = torch.cat([score, silent], dim=-1).softmax(-1)[..., :-1]
    message = (weight @ value).transpose(1, 2).reshape(len(edges[0]), width)
    return gathered(gcn_weights(edges, nodes)[:, None] * message, edges, nodes)
