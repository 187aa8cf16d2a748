"""The models that every peer trains, and what a peer is."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Shape(NamedTuple):
    """A GPT-2-like decoder (learned positions, biases, exact GELU, no dropout) and its batch of 2,048 tokens."""

    num_layers: int
    d_model: int
    num_heads: int
    vocab_size: int
    tied: bool
    length: int
    batch: int

    def tokens(self) -> np.ndarray:
        """[batch, length + 1] ids: a random walk, so that there is something to learn."""
        steps = np.random.default_rng(0).integers(0, 8, (self.batch, self.length + 1))
        return steps.cumsum(axis=1) % self.vocab_size


class Peer(NamedTuple):
    """One trainer, ready to run: a full step (forward, backward, clipping, AdamW) returns its loss."""

    parameters: int
    versions: str
    step: Callable[[], float]


SHAPES = {
    "d256-t256": Shape(4, 256, 4, 8192, True, 256, 8),
    "d256-t1024": Shape(4, 256, 4, 8192, True, 1024, 2),
    "xxs-t256": Shape(3, 768, 12, 50262, False, 256, 8),
    "xxs-t1024": Shape(3, 768, 12, 50262, False, 1024, 2),
}
LEARNING_RATE, BETAS, EPSILON, WEIGHT_DECAY, CLIP_NORM = 3e-4, (0.9, 0.95), 1e-8, 0.1, 1.0
