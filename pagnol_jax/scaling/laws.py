"""Scaling laws as values: equation, source, what they depend on, where a fit starts, the loss predicted.

Losses are nats per token, N parameters, D tokens, C FLOP. Predictions are JAX functions, so that a fit has exact
derivatives; `evaluate` gives them as float64 arrays. What is printed as `A` is fitted as `log_A`, so that it stays
positive, and exponents are positive for terms that fall.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pagnol_jax.scaling.record import Array

Inputs = Mapping[str, Any]
# What the letters in the formulas stand for.
INPUTS = {
    "N": "parameters",
    "D": "tokens",
    "C": "compute",
    "S": "steps",
    "M": "tokens per parameter",
    "U": "unique tokens",
    "L": "loss",
}
LogColumns = Callable[[Any, Inputs], Sequence[Any]]

EXPONENTS = (0.1, 0.3, 0.7)  # from which fits start
SHARES = (0.1, 0.45, 0.9)  # of the loss, that a term may have where a fit starts; they are scaled to sum to 1


class Law(NamedTuple):
    """A family of curves.

    inputs: names of `INPUTS`. parameters: K names, the logarithms of amplitudes first. predict:
    (parameters [..., K], inputs [...]) to the loss [...], leading axes broadcasting. starts: (inputs [P], loss [P]) to
    the parameters [S, K] from which a fit sets out. log_columns: of a law that is linear in its amplitudes, (exponents
    [J], inputs [P]) to the logarithm of what each amplitude multiplies [P]; None otherwise.
    """

    name: str
    formula: str
    inputs: tuple[str, ...]
    parameters: tuple[str, ...]
    predict: Callable[[Any, Inputs], Any]
    starts: Callable[[Mapping[str, Array], Array], Array]
    source: str
    log_columns: LogColumns | None = None


def evaluate(law: Law, parameters: Any, **inputs: Any) -> Array:
    """The law at inputs [...], float64; parameters [..., K] broadcast against them."""
    with jax.enable_x64(True):
        arrays = {name: jnp.asarray(value, jnp.float64) for name, value in inputs.items()}
        return np.asarray(law.predict(jnp.asarray(parameters, jnp.float64), arrays))


def constants(law: Law, parameters: Array) -> dict[str, Array]:
    """Parameters [..., K] under the names of the formula: `log_A` is given as A."""
    columns = np.moveaxis(np.asarray(parameters, np.float64), -1, 0)
    named = zip(law.parameters, columns, strict=True)
    with np.errstate(over="ignore"):  # an amplitude that nothing bounds is infinite
        return {name.removeprefix("log_"): np.exp(value) if name.startswith("log_") else value for name, value in named}


def from_constants(law: Law, **values: float) -> Array:
    """The inverse of `constants`, parameters [K]: `from_constants(CHINCHILLA, A=406.4, ...)`."""
    pairs = ((name.removeprefix("log_"), name.startswith("log_")) for name in law.parameters)
    return np.array([np.log(values[name]) if logarithm else values[name] for name, logarithm in pairs])


def summed(
    name: str, formula: str, inputs: str, amplitudes: str, exponents: str, log_columns: LogColumns, source: str
) -> Law:
    """A law that is a sum of terms, each an amplitude times a product of powers; `E`, of power 0, is the floor."""
    count = len(amplitudes.split())

    def predict(parameters: Any, values: Inputs) -> Any:
        split = jnp.moveaxis(parameters, -1, 0)
        columns = log_columns(split[count:], values)
        return sum(jnp.exp(log + column) for log, column in zip(split[:count], columns, strict=True))

    def starts(values: Mapping[str, Array], loss: Array) -> Array:
        rows = []
        for powers in product(EXPONENTS, repeat=len(exponents.split())):
            middles = [float(np.mean(column)) for column in log_columns(np.array(powers), values)]
            for share in product(SHARES, repeat=count) if count > 1 else [(1.0,)]:
                amplitude = np.log(np.median(loss) * np.array(share) / sum(share)) - middles
                rows.append([*amplitude, *powers])
        return np.unique(rows, axis=0)

    names = (*(f"log_{amplitude}" for amplitude in amplitudes.split()), *exponents.split())
    return Law(name, formula, tuple(inputs), names, predict, starts, source, log_columns)


def _log(inputs: Inputs, name: str) -> Any:
    value = inputs[name]
    return np.log(value) if isinstance(value, np.ndarray) else jnp.log(value)  # arrays stay float64 and NumPy's


KAPLAN = "Kaplan et al. 2020 (arXiv 2001.08361)"


def power(of: str, source: str) -> Law:
    """A / x^alpha."""
    formula = f"L = A / {of}^alpha"
    return summed(f"power_{of}", formula, of, "A", "alpha", lambda p, x: [-p[0] * _log(x, of)], source)


def floored(of: str, source: str) -> Law:
    """E + A / x^alpha."""
    formula = f"L = E + A / {of}^alpha"
    return summed(
        f"floored_{of}", formula, of, "A E", "alpha", lambda p, x: [-p[0] * _log(x, of), 0.0 * _log(x, of)], source
    )


POWER_C = power("C", f"{KAPLAN}, eq. 1.3; Launay et al. 2022 (arXiv 2110.08554), Figure 1")
POWER_N = power("N", f"{KAPLAN}, eq. 1.1: A = N_c^alpha")
POWER_D = power("D", f"{KAPLAN}, eq. 1.2: A = D_c^alpha")
FLOORED_C = floored("C", "Henighan et al. 2020 (arXiv 2010.14701), eq. 1.1")
FLOORED_N = floored("N", "Henighan et al. 2020 (arXiv 2010.14701), eq. 1.1")
FLOORED_D = floored("D", "Henighan et al. 2020 (arXiv 2010.14701), eq. 1.1")

KAPLAN_STEPS = summed(
    "kaplan_steps",
    "L = A / N^alpha_N + B / S^alpha_S",
    "NS",
    "A B",
    "alpha_N alpha_S",
    lambda p, x: [-p[0] * _log(x, "N"), -p[1] * _log(x, "S")],
    f"{KAPLAN}, eq. 1.6: A = N_c^alpha_N, B = S_c^alpha_S, S the steps at unlimited batch size",
)
CHINCHILLA = summed(
    "chinchilla",
    "L = E + A / N^alpha + B / D^beta",
    "ND",
    "A B E",
    "alpha beta",
    lambda p, x: [-p[0] * _log(x, "N"), -p[1] * _log(x, "D"), 0.0 * _log(x, "N")],
    "Hoffmann et al. 2022 (arXiv 2203.15556), eq. 2",
)
CHINCHILLA_TIED = summed(
    "chinchilla_tied",
    "L = E + A / N^alpha + B / D^alpha",
    "ND",
    "A B E",
    "alpha",
    lambda p, x: [-p[0] * _log(x, "N"), -p[0] * _log(x, "D"), 0.0 * _log(x, "N")],
    "Muennighoff et al. 2023 (arXiv 2305.16264), section 2",
)
# The tied law along C = 6 N D at M = D / N tokens per parameter, with alpha = 2 eta.
OVERTRAINED = summed(
    "overtrained",
    "L = E + (A M^eta + B M^-eta) / C^eta",
    "CM",
    "A B E",
    "eta",
    lambda p, x: [
        p[0] * (_log(x, "M") - _log(x, "C")),
        -p[0] * (_log(x, "M") + _log(x, "C")),
        0.0 * _log(x, "C"),
    ],
    "Gadre et al. 2024 (arXiv 2403.08540), section 3: M the tokens per parameter",
)


def _kaplan_data(parameters: Any, inputs: Inputs) -> Any:
    log_size, log_data, alpha_n, alpha_d = jnp.moveaxis(parameters, -1, 0)
    size = alpha_n / alpha_d * (log_size - _log(inputs, "N"))
    return jnp.exp(alpha_d * jnp.logaddexp(size, log_data - _log(inputs, "D")))


def _kaplan_data_starts(inputs: Mapping[str, Array], loss: Array) -> Array:
    rows = []
    for alpha_n, alpha_d in product((0.05, 0.1, 0.3), repeat=2):
        half = np.log(np.median(loss)) / alpha_d - np.log(2)  # each of the two terms in the bracket
        size, data = np.log(inputs["N"]).mean() + half * alpha_d / alpha_n, np.log(inputs["D"]).mean() + half
        rows.append([size, data, alpha_n, alpha_d])
    return np.array(rows)


KAPLAN_DATA = Law(
    "kaplan_data",
    "L = ((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D",
    ("N", "D"),
    ("log_N_c", "log_D_c", "alpha_N", "alpha_D"),
    _kaplan_data,
    _kaplan_data_starts,
    f"{KAPLAN}, eq. 1.5",
)


def _error(parameters: Any, inputs: Inputs) -> Any:
    log_epsilon, log_k, log_gamma = jnp.moveaxis(parameters, -1, 0)
    return jnp.exp(log_epsilon) - jnp.exp(log_k - jnp.exp(log_gamma) * inputs["L"])


def _error_starts(inputs: Mapping[str, Array], error: Array) -> Array:
    worst, fall, middle = error.max(), np.ptp(error) + 1e-3, np.median(inputs["L"])
    return np.array([
        [np.log(worst + above), np.log(above + fall / 2) + gamma * middle, np.log(gamma)]
        for above, gamma in product((0.01, 0.05, 0.2), (0.3, 1.0, 3.0))
    ])  # fmt: skip


ERROR = Law(
    "error",
    "error = epsilon - k exp(-gamma L)",
    ("L",),
    ("log_epsilon", "log_k", "log_gamma"),
    _error,
    _error_starts,
    "Gadre et al. 2024 (arXiv 2403.08540), eq. 5: average top-1 error of downstream tasks, L the validation loss",
)


def log_scale(log_a: Any, log_b: Any, alpha: Any, beta: Any) -> Any:
    """log G [...] of N* = G (C / 6)^a, D* = (C / 6)^b / G (Hoffmann et al. 2022, eq. 4)."""
    return (log_a + np.log(alpha) - log_b - np.log(beta)) / (alpha + beta)


def repeated(base: Array) -> Law:
    """Chinchilla's law, its constants `base` [5] known, for D tokens of which U are unique.

    The half-lives of repetition, R_D for data and R_N for the parameters beyond those that U tokens warrant.
    """
    log_a, log_b, log_e, alpha, beta = (float(value) for value in base)
    log_g = log_scale(log_a, log_b, alpha, beta)

    def predict(parameters: Any, inputs: Inputs) -> Any:
        log_r_d, log_r_n = jnp.moveaxis(parameters, -1, 0)
        unique = jnp.minimum(inputs["D"], inputs["U"])
        warranted = jnp.minimum(inputs["N"], jnp.exp(log_g + (jnp.log(unique) + log_g) * beta / alpha))
        tokens = _worth(inputs["D"], unique, jnp.exp(log_r_d))
        size = _worth(inputs["N"], warranted, jnp.exp(log_r_n))
        terms = jnp.exp(log_a - alpha * jnp.log(size)) + jnp.exp(log_b - beta * jnp.log(tokens))
        return jnp.exp(log_e) + terms

    def starts(inputs: Mapping[str, Array], loss: Array) -> Array:
        return np.log(list(product((1.0, 5.0, 20.0), repeat=2)))

    return Law(
        "repeated",
        "L = E + A / N'^alpha + B / D'^beta, x' = u + u R (1 - exp(-(x / u - 1) / R))",
        ("N", "D", "U"),
        ("log_R_D", "log_R_N"),
        predict,
        starts,
        "Muennighoff et al. 2023 (arXiv 2305.16264), eq. 5 and 6",
    )


def _worth(amount: Any, unique: Any, half_life: Any) -> Any:
    """What `amount`, of which `unique` is not excess, is worth when excess decays with `half_life`."""
    return unique * (1 - half_life * jnp.expm1(-(amount / unique - 1) / half_life))


# By the names that commands take.
LAWS = {
    law.name: law
    for law in (
        POWER_C, POWER_N, POWER_D, FLOORED_C, FLOORED_N, FLOORED_D,
        KAPLAN_DATA, KAPLAN_STEPS, CHINCHILLA, CHINCHILLA_TIED, OVERTRAINED,
    )
}  # fmt: skip
