"""A plan as plain values."""

from __future__ import annotations

from typing import Any

import numpy as np

from pagnol_jax.scaling.allocate import Allocation
from pagnol_jax.scaling.design import Ladder
from pagnol_jax.scaling.estimate import Estimate
from pagnol_jax.scaling.laws import constants
from pagnol_jax.scaling.plan import Basis, Plan, RungPlan
from pagnol_jax.scaling.plan_notes import Report, notes
from pagnol_jax.scaling.record import PF_DAY


def as_json(report: Report) -> dict[str, Any]:
    """The plan as plain values, units in the names; None for what is infinite or not told."""
    budget, plan = report.budget, report.plan
    return {
        **_law(plan.basis),
        "slice": budget.slice.name,
        "chips": budget.slice.chips,
        "hours": budget.hours,
        "mfu": budget.mfu,
        "cost": budget.cost,
        "compute_flops": budget.compute_flops,
        "compute_pf_days": budget.compute_flops / PF_DAY.flops,
        **_plan(plan),
        "rung": _rung(report.rung),
        "ladder": report.ladder and _ladder(report.ladder),
        "notes": list(notes(report)),
    }


def _law(basis: Basis) -> dict[str, Any]:
    return {
        "law": basis.law.formula,
        "source": basis.source,
        "constants": {name: float(value) for name, value in constants(basis.law, basis.parameters).items()},
        "noise_log_loss": basis.noise,
        "parameters_with_embedding": basis.with_embedding,
    }


def _plan(plan: Plan) -> dict[str, Any]:
    return {
        "extrapolation": plan.extrapolation,
        "parameters": _estimate(plan.parameters),
        "tokens": _estimate(plan.tokens),
        "tokens_per_parameter": _estimate(plan.ratio),
        "loss_nats_per_token": _estimate(plan.loss),
        "exponent": _estimate(plan.exponent),
        "smaller": [
            {
                "shrink": smaller.shrink,
                **_allocation(smaller.allocation),
                "compute_factor": _estimate(smaller.compute_factor),
                "pays_from_inference_tokens": _finite(smaller.pays_from_tokens),
            }
            for smaller in plan.smaller
        ],
        "inference_tokens": plan.inference_tokens,
        "lifetime_optimum": plan.lifetime and _allocation(plan.lifetime),
    }


def _rung(rung: RungPlan) -> dict[str, Any]:
    return {
        "name": rung.name,
        **_allocation(rung.allocation),
        "loss_interval_95": _estimate(rung.loss)["interval_95"],
        "total_steps": rung.steps,
        "worth_compute_flops": rung.worth_flops,
        "command": rung.command,
    }


def _ladder(ladder: Ladder) -> dict[str, Any]:
    return {
        "parameters": ladder.design.parameters.tolist(),
        "tokens": ladder.design.tokens.tolist(),
        "compute_flops": ladder.design.compute_flops.tolist(),
        "standard_errors": {name: _finite(value) for name, value in ladder.precision._asdict().items()},
        "standard_errors_along_optimum": {name: _finite(value) for name, value in ladder.usual._asdict().items()},
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _estimate(value: Estimate) -> dict[str, Any]:
    return {"value": value.value, "interval_95": [value.low, value.high] if np.isfinite(value.error) else None}


def _allocation(allocation: Allocation) -> dict[str, float | None]:
    size, tokens, loss = (_finite(float(value)) for value in allocation)
    return {"parameters": size, "tokens": tokens, "loss_nats_per_token": loss}
