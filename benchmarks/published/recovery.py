"""Recovery of known constants by the three approaches, from runs with noise: do 95 % intervals hold the truth?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from benchmarks.published.coverage import Method, study, study_blocks
from benchmarks.published.section import Numbers, Options, Section, text
from benchmarks.published.simulate import HOFFMANN, NOISE, curves, grid, noise, noisy_losses, valleys
from pagnol_jax.scaling.allocate import exponents, optimum
from pagnol_jax.scaling.envelope import fit_envelope
from pagnol_jax.scaling.estimate import estimate
from pagnol_jax.scaling.isoflop import SizeLaw, fit_isoflop
from pagnol_jax.scaling.laws import CHINCHILLA, constants
from pagnol_jax.scaling.objectives import Objective, huber, least_squares
from pagnol_jax.scaling.parametric import fit_law
from pagnol_jax.scaling.record import Array
from pagnol_jax.scaling.valleys import Minimum, akima, constant_noise, parabola

BEYOND = 100  # times the largest compute, where N*, D* and loss are asked for
QUANTITIES = ("a", "alpha", "beta", "E", "log N*", "log D*", "loss")
FEWER_STARTS = 25  # every so many of the law's own: the bootstrap's repeats are many
HUBER_SHARE = 0.2  # of the draws: its fits take five times longer


def quantities(parameters: Array, compute_flops: float) -> Array:
    """`QUANTITIES` [..., Q] of Chinchilla's law with parameters [..., K], the last three at that compute."""
    named, best = constants(CHINCHILLA, parameters), optimum(CHINCHILLA, parameters, compute_flops)
    share, _ = exponents(CHINCHILLA, parameters)
    columns = (share, named["alpha"], named["beta"], named["E"])
    return np.stack([*columns, np.log(best.parameters), np.log(best.tokens), best.loss], -1)


def target(inputs: Mapping[str, Array]) -> float:
    """Compute of the extrapolation."""
    return BEYOND * 6 * float((inputs["N"] * inputs["D"]).max())


def truth(inputs: Mapping[str, Array]) -> dict[str, float]:
    return dict(zip(QUANTITIES, quantities(HOFFMANN, target(inputs)).tolist(), strict=True))


def parametric(inputs: Mapping[str, Array], objective: Objective, seed: int, draws: int) -> Array:
    """Approach 3 on runs with noise: value, low and high of `QUANTITIES` [3, Q]."""
    loss = noisy_losses(inputs, seed)
    starts = CHINCHILLA.starts(inputs, loss)[::FEWER_STARTS]
    fit = fit_law(CHINCHILLA, inputs, loss, objective=objective, starts=starts, draws=draws, seed=seed)
    values, drawn = quantities(fit.parameters, target(inputs)), quantities(fit.draws, target(inputs))
    return np.array([estimate(value, column)[:3] for value, column in zip(values, drawn.T, strict=True)]).T


def isoflop(minimum: Minimum, known: bool, seed: int, draws: int) -> Array:
    """Approach 2, the noise known or told from the valleys: value, low and high of a [3, 1]."""
    clean = valleys()
    factors = np.split(noise(sum(valley.parameters.size for valley in clean), seed), len(clean))
    shaken = [
        valley._replace(loss_nats_per_token=valley.loss_nats_per_token * factor)
        for valley, factor in zip(clean, factors, strict=True)
    ]
    return _exponent(fit_isoflop(shaken, minimum, constant_noise(NOISE) if known else None, draws, seed).law)


def envelope(seed: int, draws: int) -> Array:
    """Approach 1, every run's loss moved as a whole: value, low and high of a [3, 1]."""
    clean = curves()
    factors = noise(int(clean.run.max()) + 1, seed)[clean.run]
    shaken = clean._replace(loss_nats_per_token=clean.loss_nats_per_token * factors)
    return _exponent(fit_envelope(shaken, constant_noise(NOISE), draws, seed).law)


def _exponent(law: SizeLaw) -> Array:
    return np.array([[law.exponent], *law.exponent_interval[:, None]])


def methods() -> list[Method]:
    runs = grid()
    share = {"a": float(exponents(CHINCHILLA, HOFFMANN)[0])}
    return [
        Method("1, envelope", share, envelope),
        Method("2, Akima, noise known", share, partial(isoflop, akima, True)),
        Method("2, Akima, noise told from the valleys", share, partial(isoflop, akima, False)),
        Method("2, parabola, noise known", share, partial(isoflop, parabola, True)),
        Method("2, parabola, noise told from the valleys", share, partial(isoflop, parabola, False)),
        Method("3, least squares of log loss", truth(runs), partial(parametric, runs, least_squares())),
        Method("3, Huber(1e-3) of log loss", truth(runs), partial(parametric, runs, huber()), HUBER_SHARE),
    ]


def measure(options: Options) -> Numbers:
    return {"noise": NOISE, "methods": study(methods(), options.repeats, options.draws, options.processes)}


def page(numbers: Numbers) -> list[str]:
    told = numbers["methods"]
    return [
        text(
            f"Losses of Hoffmann's law with noise of {100 * numbers['noise']:.1f} % (normal, of log loss). Approach 1 "
            "has seven curves, moved each as a whole; approach 2 six budgets of seven sizes; approach 3 a grid of 48 "
            f"runs. N*, D* and loss are asked for at {BEYOND} times the largest compute. Approaches 1 and 2 give "
            "intervals by Student's t, approach 3 percentiles of a bootstrap over runs."
        ),
        *study_blocks(told),
        text(
            "Huber's delta of 1e-3 is a third of this noise, so the fit is nearly one of least absolute deviations, "
            "of which a bootstrap over few runs overstates the spread: its intervals err on the wide side."
        ),
    ]


SECTION = Section("Recovery: known constants from noisy runs", measure, page)
