"""`pagnol tpu`: a run's training step on TPUs that are not at hand."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from pagnol_jax.cli import gin_files
from pagnol_jax.cli.arguments import count
from pagnol_jax.errors import writing


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `tpu compile` and `tpu plan`."""
    parser = subparsers.add_parser(
        "tpu",
        help="compile a run's step for TPUs that are not at hand, or plan it on them",
        description="Compiles the training step of gin files for any TPU topology, on this machine's CPU.",
    )
    commands = parser.add_subparsers(title="commands", metavar="command", required=True)
    compile_ = commands.add_parser(
        "compile",
        help="memory, FLOPs, traffic and roofline of the step",
        description="Compiles the very step that `pagnol train` runs and tells its memory, FLOPs, traffic and bound.",
        epilog="example: pagnol tpu compile --gin_file runs/pagnol_xl.gin --gin_file mesh/fsdp.gin --topology v5e:4x4",
    )
    compile_.set_defaults(run=run_compile)
    plan = commands.add_parser(
        "plan",
        help="the mesh, remat and microbatches that suit a topology",
        description="Searches mesh, remat and per-chip batch for a run on a topology, and writes them as a gin file.",
        epilog="example: pagnol tpu plan --gin_file runs/pagnol_xl.gin --topology v5e:4x4 --output xl_v5e.gin",
    )
    plan.add_argument("--output", type=Path, metavar="FILE", help="gin file to write (default: printed)")
    plan.add_argument("--compiles", type=count, default=2, metavar="N", help="layouts to compile (default: 2)")
    plan.set_defaults(run=run_plan)
    for command in (compile_, plan):
        gin_files.add_arguments(command)
        command.add_argument("--topology", required=True, metavar="CHIP:SHAPE", help="such as v5e:4x4 or v5p:4x4x8")
        command.add_argument("--num_slices", type=count, default=1, metavar="N", help="slices (default: 1)")
        command.add_argument("--json", type=Path, metavar="FILE", help="writes the figures as JSON too")
        command.add_argument("--vocab_size", type=count, metavar="N", help="instead of the mixture's tokenizer's")


def _prepare(args: argparse.Namespace) -> tuple[Any, dict[str, Any], int]:
    """(topology, bindings of `train`, vocabulary) of a command line."""
    from pagnol_jax.tpu import topology as topologies

    topologies.prepare_environment()
    topology = topologies.topology(args.topology, args.num_slices)
    gin_files.parse(args.gin_file, args.gin_bindings)
    from pagnol_jax.train.run import train

    bindings = gin_files.bindings(train)
    vocab_size = args.vocab_size or bindings["mixture"].tokenizer.vocab_size()
    return topology, bindings, vocab_size


def run_compile(args: argparse.Namespace) -> int:
    """Exit status 0; 2 for a step that does not divide, does not fit, or is not described."""
    topology, bindings, vocab_size = _prepare(args)
    from pagnol_jax.tpu.compile import compile_step

    with _working(f"compiling for {topology.chips} chips"), gin_files.plain_errors():
        step = compile_step(topology, bindings, vocab_size)
    _tell(step, args.json)
    return 0


def _tell(step: Any, path: Path | None) -> None:
    from pagnol_jax.tpu import report

    print(report.text(step))
    if path:
        with writing(path):
            path.write_text(json.dumps(report.to_json(step), indent=2) + "\n", encoding="utf-8")


def run_plan(args: argparse.Namespace) -> int:
    """Exit status 0; 2 where nothing divides or fits."""
    topology, bindings, vocab_size = _prepare(args)
    from pagnol_jax.tpu import plan

    with _working("ranking layouts") as bar, gin_files.plain_errors():
        chosen = plan.plan(topology, bindings, vocab_size, args.compiles, told=bar.set_description_str)
    for size, reason in chosen.refused.items():
        print(f"refused    {size}: {reason}")
    for layout, outcome in chosen.tried:
        print(f"compiled   {plan.describe(layout)}: {outcome}")
    print(f"chosen     {plan.describe(chosen.layout)}")
    _tell(chosen.compiled, args.json)
    gin = plan.gin_text(chosen, args.gin_file, args.gin_bindings, gin_files.imports(args.gin_file))
    if args.output:
        with writing(args.output):
            args.output.write_text(gin, encoding="utf-8")
        print(f"written    {args.output}: pagnol train --gin_file {args.output}", file=sys.stderr)
    else:
        print("\n" + gin)
    return 0


class _working:  # noqa: N801 - a context manager
    """A bar without an end, its clock running, on stderr."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> Any:
        import threading

        from tqdm import tqdm

        self.bar = tqdm(desc=self.what, bar_format="{desc}: {elapsed}", leave=False)
        self.done = threading.Event()

        def tick() -> None:
            while not self.done.wait(1):
                self.bar.refresh()

        self.thread = threading.Thread(target=tick, daemon=True)
        self.thread.start()
        return self.bar

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()
        self.bar.close()
