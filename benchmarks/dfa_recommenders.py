"""Click models by backpropagation, DFA and shallow on planted interactions: tuned rates, five seeds, a table, a figure.

    python -m benchmarks.dfa_recommenders [--sample train.csv]

Networks, rules and data are those of gin/dfa/recommend. Numbers are saved leaf by leaf: a stopped run goes on.
With a sample of Criteo's log the same networks at the paper's sizes are trained on it too, at one rate.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from scipy import stats

from benchmarks.machine import describe, save
from pagnol_jax.cli import gin_files
from pagnol_jax.data.zoo.planted import bayes_auc, draw
from pagnol_jax.data.zoo.ranking import auc, log_loss
from pagnol_jax.data.zoo.rows import Batches
from pagnol_jax.train.zoo import recommend

NUMBERS = Path("benchmarks/results/dfa_recommenders.json")
FIGURE = Path("docs/figures/dfa_recommenders.png")
MODELS = {"fm": "FM", "deepfm": "DeepFM", "dcn": "Deep & Cross", "autoint": "AutoInt", "afn": "AFN"}
ARMS = {"": "BP", "_dfa": "DFA", "_shallow": "shallow"}
LEAVES = ["fm", *(model + arm for model in list(MODELS)[1:] for arm in ARMS), "afn_dfa_meant"]
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)  # those in the middle first, others where the best lies at an end
TUNING_SEED, SEEDS = 0, (1, 2, 3, 4, 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", metavar="FILE", help="in Criteo's format")
    sample = parser.parse_args().sample
    report = json.loads(NUMBERS.read_text()) if NUMBERS.exists() else {"machine": describe(), "leaves": {}}
    for leaf in LEAVES:
        if leaf not in report["leaves"]:
            report["leaves"][leaf] = measured(leaf)
            report["bayes"] = report.get("bayes") or bounds()
            save(NUMBERS, report)
        print(leaf, summary(report["leaves"][leaf]["runs"], "test_auc"), file=sys.stderr, flush=True)
    print(table(report))
    draw_figure(report)
    for leaf in LEAVES if sample else ():
        found = report.setdefault("sample", {})
        if leaf not in found:
            net, bound = built(leaf, "sample", [f"CRITEO = {sample!r}"])
            found[leaf] = [run(net, bound, bound["learning_rate"], seed) for seed in SEEDS[:3]]
            save(NUMBERS, report)
        print(leaf, summary(found[leaf], "test_auc"), summary(found[leaf], "test_log_loss"))


def bounds() -> dict[str, Any]:
    """What can be reached: in expectation over labels, and on the test labels of each seed."""
    truth = draw()
    tests = {}
    for seed in SEEDS:
        batches = Batches(truth.rows, 1, seed)
        rows = batches.indexes("test", np.arange(batches.count("test")))
        tests[str(seed)] = auc(truth.probabilities[rows], truth.rows.labels[rows])
    return {"expected": bayes_auc(truth.probabilities), "test": tests}


def measured(leaf: str) -> dict[str, Any]:
    """The rate that is best on one seed's validation rows, and runs with it on the others."""
    start = time.perf_counter()
    net, bound = built(leaf, "planted", [])
    tuning = tuned(lambda rate: run(net, bound, rate, TUNING_SEED)["validation_auc"])
    best = max(tuning, key=lambda rate: tuning[rate])
    runs = [run(net, bound, best, seed) for seed in SEEDS]
    found = {"rate": best, "tuning": {f"{rate:g}": area for rate, area in sorted(tuning.items())}, "runs": runs}
    return found | {"seconds": time.perf_counter() - start}


def built(leaf: str, data: str, bindings: list[str]) -> tuple[recommend.Network, dict[str, Any]]:
    """A leaf's network and what gin binds to `train`; the rate is a part of the state: one compiled step for all."""
    gin_files.parse([f"dfa/recommend/{leaf}.gin", f"dfa/recommend/{data}.gin"], bindings)
    bound = gin_files.bindings(recommend.train)
    optimizer = optax.inject_hyperparams(recommend.adam, static_args="clip_norm")(0.0, bound.get("clip_norm"))
    return recommend.network(bound["model"](sizes=bound["data"].sizes), bound["rule"], optimizer, 0), bound


def tuned(score: Callable[[float], float]) -> dict[float, float]:
    """Scores by rate, the best of which has a neighbour tried on either side."""
    scores: dict[float, float] = {}
    wanted = set(RATES[1:5])
    while todo := wanted - set(scores):
        scores |= {rate: score(rate) for rate in sorted(todo)}
        best = RATES.index(max(scores, key=lambda rate: scores[rate]))
        wanted |= set(RATES[max(best - 1, 0) : best + 2])
    return scores


def run(net: recommend.Network, bound: dict[str, Any], rate: float, seed: int) -> dict[str, Any]:
    """One training; the seed is that of parameters, feedback, split and order, on one set of rows."""
    batches = Batches(bound["data"], bound["batch_size"], seed, bound["order"])
    state = net.init(jax.random.key(seed))
    state.optimizer.hyperparams["learning_rate"] = jax.numpy.float32(rate)
    while int(state.worse) < bound["patience"] and int(state.step) < bound["epochs"] * batches.steps_per_epoch:
        for step in range(int(state.step), int(state.step) + batches.steps_per_epoch):
            state, _ = net.update(state, batches(step))
        state, _ = recommend.evaluated(net, state, batches)
    logits, labels = recommend.scores(net, state.best, batches, "test")
    found = {"seed": seed, "test_auc": auc(logits, labels), "test_log_loss": log_loss(logits, labels)}
    found |= {"validation_auc": float(state.best.auc), "best_epoch": int(state.best.epoch)}
    return found | {"alignment": recommend.alignment(net, state, batches)}


def summary(runs: list[dict[str, Any]], what: str) -> tuple[float, float]:
    """Mean and half of its 95 % interval (Student's t over seeds)."""
    return interval([run[what] for run in runs])


def interval(values: list[float]) -> tuple[float, float]:
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values)), float(half)


def table(report: dict[str, Any]) -> str:
    """Markdown: AUC by model and arm, and the differences seed by seed."""
    leaves = report["leaves"]
    lines = ["| model | BP | DFA | shallow | BP - DFA | DFA - shallow |", "|---|---|---|---|---|---|"]

    def cell(leaf: str) -> str:
        mean, half = summary(leaves[leaf]["runs"], "test_auc")
        return f"{mean:.4f} ± {half:.4f}"

    def difference(one: str, other: str) -> str:
        pairs = zip(leaves[one]["runs"], leaves[other]["runs"], strict=True)
        mean, half = interval([a["test_auc"] - b["test_auc"] for a, b in pairs])
        return f"{mean:+.4f} ± {half:.4f}"

    for model, name in MODELS.items():
        if model == "fm":
            lines.append(f"| {name} | {cell(model)} | | | | |")
            continue
        arms = [model + arm for arm in ARMS]
        cells = [*map(cell, arms), difference(arms[0], arms[1]), difference(arms[1], arms[2])]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    cells = ["", cell("afn_dfa_meant"), "", difference("afn", "afn_dfa_meant")]
    lines.append(f"| AFN, as meant | {' | '.join(cells)} | {difference('afn_dfa_meant', 'afn_shallow')} |")
    rates = ", ".join(f"{leaf} {found['rate']:g}" for leaf, found in leaves.items())
    return "\n".join([*lines, "", f"Bayes {report['bayes']}", f"rates: {rates}"])


def draw_figure(report: dict[str, Any]) -> None:
    """AUC on test rows: a point a seed, a bar over the 95 % interval of the mean, and the Bayes AUC."""
    from pagnol_jax.scaling.plots import style

    theme = style.LIGHT
    with style.written(FIGURE, theme) as figure:
        axes = figure.subplots()
        for arm, how in zip(ARMS, style.series(len(ARMS), theme), strict=True):
            offset = {"": -0.22, "_dfa": 0.0, "_shallow": 0.22}[arm]
            at = [(x, model + arm) for x, model in enumerate(MODELS) if model + arm in report["leaves"]]
            for index, (x, leaf) in enumerate(at):
                runs = report["leaves"][leaf]["runs"]
                mean, half = summary(runs, "test_auc")
                label = ARMS[arm] if index == 0 else None
                axes.errorbar(
                    x + offset, mean, half, fmt=how.marker, color=how.colour, ms=4, capsize=3, lw=1, label=label
                )
                spread = x + offset + np.linspace(-0.06, 0.06, len(runs))
                axes.plot(spread, [run["test_auc"] for run in runs], ".", color=how.colour, ms=2, alpha=0.5)
        axes.axhline(report["bayes"]["expected"], color=theme.law, lw=0.8, ls="--", label="Bayes")
        axes.axhline(0.5, color=theme.faint, lw=0.8)
        axes.set_xticks(range(len(MODELS)), list(MODELS.values()))
        axes.set_ylabel("AUC on test rows")
        axes.legend(frameon=False, fontsize=style.SMALL, loc="lower left")
        style.tidy(axes)


if __name__ == "__main__":
    main()
