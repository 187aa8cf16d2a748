"""Scaling laws from run records, with numpy, scipy and jax; `scaling.plots` also needs matplotlib."""

from pagnol_jax.scaling.fit import FrontierFit, HoldOut, fit_frontier
from pagnol_jax.scaling.frontier import power_line
from pagnol_jax.scaling.laws import Law
from pagnol_jax.scaling.points import Points, every_point, final_points, pareto_points, points_at
from pagnol_jax.scaling.read import read_runs
from pagnol_jax.scaling.record import (
    CONVENTIONS,
    FLOP,
    NON_EMBEDDING,
    PF_DAY,
    TOTAL,
    WITH_ATTENTION,
    ComputeUnit,
    Convention,
    Curve,
    RunRecord,
    check_comparable,
    harmonise,
    with_convention,
)

__all__ = [
    "CONVENTIONS",
    "FLOP",
    "NON_EMBEDDING",
    "PF_DAY",
    "TOTAL",
    "WITH_ATTENTION",
    "ComputeUnit",
    "Convention",
    "Curve",
    "FrontierFit",
    "HoldOut",
    "Law",
    "Points",
    "RunRecord",
    "check_comparable",
    "every_point",
    "final_points",
    "fit_frontier",
    "harmonise",
    "pareto_points",
    "points_at",
    "power_line",
    "read_runs",
    "with_convention",
]
