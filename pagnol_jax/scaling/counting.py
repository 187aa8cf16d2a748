"""Why Kaplan's and Hoffmann's exponents differ: one counts parameters and compute without embeddings, the other with.

Pearce and Song 2024 (arXiv 2406.12907): if losses follow Chinchilla's law of all parameters, whoever counts those of
the blocks alone, at sizes where embeddings weigh, sees exponents like Kaplan's. No data are needed for that.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pagnol_jax.scaling.frontier import least_squares
from pagnol_jax.scaling.laws import CHINCHILLA, constants, evaluate
from pagnol_jax.scaling.record import Array

# Total = blocks + EMBEDDING * blocks^(1/3): a vocabulary of 32,000 at the aspect ratio of Chinchilla's models
# (Pearce and Song 2024, section 3).
EMBEDDING = 47_491.0


class BlocksView(NamedTuple):
    """The efficient frontier as seen without embeddings: blocks' parameters [P], compute 6*N_blocks*D [P], loss [P]."""

    parameters: Array
    compute_flops: Array
    loss_nats_per_token: Array

    @property
    def size_exponent(self) -> float:
        """a of N = k C^a, by least squares of the logarithms."""
        return float(least_squares(np.log(self.compute_flops), np.log(self.parameters))[1])

    @property
    def loss_exponent(self) -> float:
        """Exponent of compute in a plain power law of the loss, negative."""
        return float(least_squares(np.log(self.compute_flops), np.log(self.loss_nats_per_token))[1])


def without_embeddings(parameters: Array, blocks: Array, embedding: float = EMBEDDING) -> BlocksView:
    """The frontier of Chinchilla's law `parameters` [5] through models of `blocks` parameters [P] without embeddings.

    With C = 6 N D and N_total = N + w N^(1/3), dL/dN = 0 at fixed C gives the tokens of every size in closed form:
    D^beta = beta B / (alpha A) * N_total^(1 + alpha) / (N + w N^(1/3) / 3).
    """
    law = constants(CHINCHILLA, parameters)
    root = embedding * np.cbrt(blocks)
    total = blocks + root
    log_tokens = np.log(law["beta"] * law["B"] / (law["alpha"] * law["A"]) / (blocks + root / 3))
    tokens = np.exp((log_tokens + (1 + law["alpha"]) * np.log(total)) / law["beta"])
    return BlocksView(blocks, 6 * blocks * tokens, evaluate(CHINCHILLA, parameters, N=total, D=tokens))
