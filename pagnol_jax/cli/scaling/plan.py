"""`pagnol scaling plan`: from hours of a slice, or money, to a size, its tokens and its loss."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pagnol_jax.cli.scaling import inputs
from pagnol_jax.errors import UserError

if TYPE_CHECKING:
    from pagnol_jax.scaling.chips import Budget
    from pagnol_jax.scaling.design import Ladder
    from pagnol_jax.scaling.plan import Basis, Plan

LAWS = ("hoffmann", "besiroglu")
EXAMPLE = """examples, a hundred hours by a published law, and ten thousand of any currency by your own runs:
  pagnol scaling plan --chips v5p-128 --hours 100 --mfu 0.6
  pagnol scaling plan --chips v5e-64 --budget 10000 --price 1.2 --runs runs/grid --ladder next.gin"""


def add_parser(commands: inputs.Commands) -> None:
    """Adds `plan`."""
    parser = inputs.add_command(commands, "plan", "Turn a compute budget into a plan by a scaling law.", EXAMPLE)
    _add_budget(parser.add_argument_group("budget"))
    law = parser.add_argument_group("law")
    either = law.add_mutually_exclusive_group()
    either.add_argument(
        "--runs", nargs="+", type=Path, metavar="RUNS", help=f"fit Chinchilla's law to {inputs.RUNS_HELP}"
    )
    either.add_argument("--law", choices=LAWS, help="published constants (default: hoffmann)")
    inputs.add_reading(parser)
    add = parser.add_argument
    add("--inference_tokens", type=_positive, metavar="T", help="tokens that the model will serve")
    add("--unique_tokens", type=_positive, metavar="U", help="tokens of the data, to tell epochs")
    add(
        "--share", type=_share, default=0.01, help="of the budget, for the ladder that pins the law down (default: .01)"
    )
    add("--ladder", type=Path, metavar="FILE.gin", help="write that ladder for `pagnol ladder`")
    add("--json", type=Path, metavar="FILE", help="also write the plan as JSON")
    parser.set_defaults(run=run)


def _add_budget(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--chips", required=True, metavar="SLICE", help="a slice: v4-8, v5e-16, v5p-128 (64 chips), v6e-8"
    )
    amount = group.add_mutually_exclusive_group(required=True)
    amount.add_argument("--hours", type=_positive, metavar="H", help="of the whole slice")
    amount.add_argument("--budget", type=_positive, metavar="MONEY", help="in the currency of --price")
    group.add_argument("--price", type=_positive, metavar="P", help="of one chip for one hour")
    group.add_argument("--mfu", type=_share, default=0.4, help="share of the peak that 6 N D gets (default: .4)")


def run(args: argparse.Namespace) -> None:
    """Prints the plan, and writes its ladder and JSON where asked."""
    from pagnol_jax.cli.scaling import rungs
    from pagnol_jax.scaling.plan import make_plan
    from pagnol_jax.scaling.plan_json import as_json
    from pagnol_jax.scaling.plan_notes import Report
    from pagnol_jax.scaling.plan_report import as_text

    budget, basis = _budget(args), _basis(args)
    plan = make_plan(basis, budget.compute_flops, args.inference_tokens)
    models = rungs.shapes(basis.with_embedding)
    ladder, no_ladder = _ladder(args, plan, sorted(models))
    report = Report(budget, plan, rungs.nearest(plan), ladder, no_ladder, args.unique_tokens)
    print(as_text(report))
    if args.ladder and ladder:
        rungs.write_ladder(args.ladder, ladder.design, models, plan.compute_flops)
    if args.json:
        inputs.write_json(args.json, as_json(report))


def _ladder(args: argparse.Namespace, plan: Plan, sizes: Sequence[float]) -> tuple[Ladder | None, str | None]:
    """The ladder, or why there is none; without one the rest of the plan stands, unless it was asked for."""
    from pagnol_jax.scaling.design import make_ladder

    basis, compute = plan.basis, plan.compute_flops
    try:
        return make_ladder(basis.law, basis.parameters, compute, args.share * compute, sizes, basis.noise), None
    except UserError as error:
        if args.ladder:
            raise
        return None, str(error)


def _budget(args: argparse.Namespace) -> Budget:
    from pagnol_jax.scaling.chips import Budget, parse_slice

    slice_ = parse_slice(args.chips)
    if args.budget and not args.price:
        raise UserError("--budget needs the price of a chip-hour: give --price")
    hours = args.hours or args.budget / (args.price * slice_.chips)
    return Budget(slice_, hours, args.mfu, args.price)


def _basis(args: argparse.Namespace) -> Basis:
    from pagnol_jax.scaling.plan import PUBLISHED, basis_of

    return basis_of(inputs.read(args, args.runs)) if args.runs else PUBLISHED[args.law or LAWS[0]]


def _positive(text: str) -> float:
    value = _number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def _share(text: str) -> float:
    value = _number(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share: above 0, at most 1")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
