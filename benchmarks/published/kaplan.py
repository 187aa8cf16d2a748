"""Kaplan's exponents from Chinchilla's law by counting without embeddings (Pearce and Song 2024, arXiv 2406.12907)."""

from __future__ import annotations

import numpy as np

from benchmarks.published.section import Numbers, Options, Section, table, text
from pagnol_jax.scaling.counting import without_embeddings
from pagnol_jax.scaling.laws import CHINCHILLA, from_constants

# The sizes that Kaplan et al. trained: 768 to 1.5 billion parameters without embeddings (section 3).
SIZES = np.geomspace(768, 1.5e9, 20)
# Constants as in Pearce and Song's script, and the exponent of N that they find.
LAWS = {
    "Hoffmann et al.": (from_constants(CHINCHILLA, A=406.4, B=410.7, alpha=0.3392, beta=0.2849, E=1.6934), 0.74),
    "Besiroglu et al.": (from_constants(CHINCHILLA, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658, E=1.8172), 0.78),
}
KAPLAN_SIZE, KAPLAN_LOSS = 0.73, -0.057  # Kaplan et al. 2020, table 6 and appendix A: of plain compute


def measure(options: Options) -> Numbers:
    return {"laws": {name: _views(law) | {"pearce_and_song": seen} for name, (law, seen) in LAWS.items()}}


def _views(law: np.ndarray) -> Numbers:
    seen, counted = without_embeddings(law, SIZES), without_embeddings(law, SIZES, embedding=0.0)
    return {
        "size_exponent": seen.size_exponent,
        "loss_exponent": seen.loss_exponent,
        "size_exponent_all_parameters": counted.size_exponent,
    }


def page(numbers: Numbers) -> list[str]:
    return [
        text(
            "If losses follow Chinchilla's law of all parameters, whoever counts parameters and compute without "
            "embeddings, at Kaplan's sizes, sees exponents like Kaplan's. No data enter."
        ),
        table(_row(name, one) for name, one in numbers["laws"].items()),
    ]


def _row(name: str, one: Numbers) -> dict[str, str]:
    return {
        "Chinchilla's law of": name,
        "a, all counted": f"{one['size_exponent_all_parameters']:.3f}",
        "a, without embeddings": f"**{one['size_exponent']:.3f}**",
        "Pearce and Song": f"{one['pearce_and_song']:.2f}",
        "a, Kaplan et al.": f"{KAPLAN_SIZE}",
        "exponent of the loss, without embeddings": f"**{one['loss_exponent']:.4f}**",
        "of the loss, Kaplan et al.": f"{KAPLAN_LOSS}",
    }


SECTION = Section("Kaplan's exponents by counting", measure, page)
