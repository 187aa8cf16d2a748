"""The models that every peer trains, and what a peer is."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Shape(NamedTuple):
    """A GPT-2-like decoder (learned positions, biases, exact GELU, no dropout) and its batch."""

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
# PAGnol's sizes for an accelerator of 80 GB that two trainers share; the vocabulary padded to a multiple of 128.
LARGE = {
    "tiny": Shape(2, 128, 4, 512, False, 128, 2),
    "s": Shape(12, 768, 12, 50304, False, 1024, 32),
    "m": Shape(24, 1024, 16, 50304, False, 1024, 16),
    "l": Shape(36, 1280, 20, 50304, False, 1024, 8),
    "xl": Shape(48, 1600, 25, 50304, False, 1024, 4),
}
LEARNING_RATE, BETAS, EPSILON, WEIGHT_DECAY, CLIP_NORM = 3e-4, (0.9, 0.95), 1e-8, 0.1, 1.0
