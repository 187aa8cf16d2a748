"""Toy models of `transformers` with every tensor random, and the comparison of logits."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from pagnol_jax.convert import huggingface
from pagnol_jax.models import store
from pagnol_jax.models.config import GPTConfig
from pagnol_jax.models.gpt import GPT

VOCAB = 61


def randomise(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every parameter random and of a size that matters, norms around one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_scale = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(1 + 0.3 * noise if is_scale else 0.2 * noise)
    return module.eval()


def random_params(config: GPTConfig, seed: int = 0, dtype: Any = np.float32) -> store.Params:
    """Parameters of our own, every one of them random."""
    rng = np.random.default_rng(seed)
    flat = {
        path: (rng.normal(size=shape) * 0.2 + path.endswith("scale")).astype(dtype)
        for path, shape in store.shapes(config).items()
    }
    return store.unflatten(flat)


def tokens(length: int = 24, batch: int = 2, vocab: int = VOCAB) -> np.ndarray:
    return np.random.default_rng(1).integers(0, vocab, (batch, length))


def our_logits(config: GPTConfig, params: store.Params, ids: np.ndarray) -> np.ndarray:
    """[B, T, V] float32."""
    return np.asarray(GPT(config).apply({"params": params}, jnp.asarray(ids)))


def their_logits(model: Any, ids: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(ids)).logits.numpy()


def our_greedy(config: GPTConfig, params: store.Params, ids: np.ndarray, steps: int) -> np.ndarray:
    """[B, T] -> [B, T + steps], the whole prefix computed again for every token."""
    total = ids.shape[1] + steps
    padded = np.zeros((len(ids), total), np.int32)
    padded[:, : ids.shape[1]] = ids
    logits = jax.jit(lambda ids: GPT(config).apply({"params": params}, ids))
    for at in range(ids.shape[1], total):  # causal: what stands after `at` changes nothing
        padded[:, at] = np.asarray(logits(jnp.asarray(padded)))[:, at - 1].argmax(-1)
    return padded


def saved(model: Any, folder: Path) -> tuple[GPTConfig, store.Params]:
    """A model of `transformers`, saved by it and read by us."""
    model.save_pretrained(folder)
    config, params, _ = huggingface.read(folder)
    return config, params


def assert_same_bits(left: store.Params, right: store.Params) -> None:
    one, two = store.flatten(left), store.flatten(right)
    assert one.keys() == two.keys()
    for name, array in one.items():
        assert array.dtype == two[name].dtype, name
        assert array.tobytes() == two[name].tobytes(), name
