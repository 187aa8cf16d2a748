"""`pagnol dfa recommend`: a click model on Criteo's log, trained by a rule."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pagnol_jax.cli import gin_files


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `recommend`."""
    parser = subparsers.add_parser(
        "recommend",
        help="click models on Criteo's log: FM, DeepFM, Deep & Cross, AutoInt, AFN",
        description="Trains the click model that gin files describe, tests its best epoch, and writes results.json. "
        "A run folder that exists is resumed exactly.",
        epilog="example: pagnol dfa recommend --gin_file gin/dfa/recommend/deepfm_dfa.gin --gin.CRITEO='\"train.txt\"'",
    )
    gin_files.add_arguments(parser)
    parser.add_argument("--run_dir", help="folder of the run (default: runs/dfa_recommend/NAME of the first gin file)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exit status 0, or 128 + the number of the signal that stopped the run after a checkpoint."""
    import gin

    gin_files.parse(args.gin_file, args.gin_bindings)
    from pagnol_jax.train.cpu import keep_memory
    from pagnol_jax.train.zoo.recommend import train

    keep_memory()
    folder = args.run_dir or f"runs/dfa_recommend/{Path(args.gin_file[0]).stem}"
    results = gin_files.call(train, run_dir=folder, config_text=gin.operative_config_str)
    print(told(results))
    print(f"results: {folder}/results.json")
    return 0


def told(results: dict[str, Any]) -> str:
    """results.json in a few lines."""
    speed = results["rows_per_second"]
    lines = [
        f"{results['model']['architecture']} by {results['rule']['name']}, {results['parameters']:,} parameters",
        f"test AUC {results['test_auc']:.4f}, log loss {results['test_log_loss']:.4f}"
        f" (epoch {results['best_epoch']} of {results['epochs']}, validation AUC {results['validation_auc']:.4f})",
        f"training {speed:,.0f} rows/s" if speed else "training: too few steps to time",
    ]
    lines += [f"alignment at {name}: {a['mean']:.3f} ({a['std']:.3f})" for name, a in results["alignment"].items()]
    return "\n".join(lines)
