"""`pagnol dfa nerf`: radiance fields of a scene, trained by a rule, rendered, scored and flown around."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pagnol_jax.cli import gin_files
from pagnol_jax.cli.arguments import count

if TYPE_CHECKING:  # imported when a command runs, so that `pagnol --help` stays quick
    from pagnol_jax.train.zoo.nerf import Problem

LEAF = "--gin_file gin/dfa/nerf/"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `nerf` with its commands."""
    description = "Neural radiance fields: novel views of a scene from its photographs (Blender and LLFF formats)."
    parser = subparsers.add_parser("nerf", help="views of a scene: train, evaluate, render", description=description)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands)
    _add_evaluate(commands)
    _add_render(commands)
    _add_video(commands)
    _add_convert(commands)
    _add_plot(commands)


def _command(commands: Any, name: str, help: str, example: str, run: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=help, description=f"{help}.", epilog=f"example: pagnol dfa nerf {name} {example}"
    )
    parser.set_defaults(run=run)
    return parser


def _add_train(commands: Any) -> None:
    what = "Train the two networks of a scene, or go on with a stopped run exactly"
    parser = _command(commands, "train", what, f"{LEAF}lego_dfa_cpu.gin --run_dir runs/lego_dfa", train)
    gin_files.add_arguments(parser)
    parser.add_argument("--run_dir", help="folder of the run (default: runs/dfa_nerf/<name of the first gin file>)")


def _add_evaluate(commands: Any) -> None:
    what = "Score test views by PSNR and SSIM, and write them beside the truth"
    example = f"{LEAF}released_dfa.gin --weights synth_lego_dfa.ckpt --output lego --stride 2"
    parser = _command(commands, "evaluate", what, example, evaluate)
    _add_weights(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="of results.json and the pictures")
    parser.add_argument("--views", type=count, metavar="N", help="so many test views, spread over all (default: all)")


def _add_render(commands: Any) -> None:
    what = "Render test views by name"
    example = f"{LEAF}lego_dfa.gin --weights runs/lego_dfa --output lego r_0 r_100"
    parser = _command(commands, "render", what, example, render)
    _add_weights(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="of NAME.png and NAME_depth.png")
    parser.add_argument("names", nargs="+", metavar="NAME", help="of a test view")


def _add_video(commands: Any) -> None:
    what = "Render a flight around the scene"
    example = f"{LEAF}lego_dfa.gin --weights runs/lego_dfa --output lego.webp --frames 30 --stride 2"
    parser = _command(commands, "video", what, example, video)
    _add_weights(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="moving .webp, .gif or .png")
    parser.add_argument("--frames", type=count, default=60, metavar="N", help="pictures in it (default: 60)")


def _add_convert(commands: Any) -> None:
    what = "Exchange weights with PyTorch: a run, .ckpt or .safetensors to .ckpt or .safetensors"
    example = f"{LEAF}lego_dfa.gin --weights runs/lego_dfa lego.ckpt"
    parser = _command(commands, "convert", what, example, convert)
    _add_weights(parser, stride=False)
    parser.add_argument("dest", type=Path, metavar="DEST", help=".ckpt (PyTorch) or .safetensors to write; must be new")


def _add_plot(commands: Any) -> None:
    what = "Draw the training curves of runs"
    parser = _command(commands, "plot", what, "runs/lego_bp runs/lego_dfa --output curves.png", plot)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="picture to write")


def _add_weights(parser: argparse.ArgumentParser, stride: bool = True) -> None:
    gin_files.add_arguments(parser)
    parser.add_argument(
        "--weights", type=Path, required=True, metavar="PATH", help="run folder, .safetensors, or PyTorch's .ckpt"
    )
    if stride:
        parser.add_argument(
            "--stride",
            type=count,
            default=1,
            metavar="N",
            help="every N-th pixel of every N-th row (default: 1, all)",
        )


def train(args: argparse.Namespace) -> int:
    """Says what held-out views gave. Exit status 0, or 128 + the number of the signal that stopped the run."""
    import gin

    gin_files.parse(args.gin_file, args.gin_bindings)
    from pagnol_jax.train.cpu import keep_memory
    from pagnol_jax.train.study import metrics
    from pagnol_jax.train.zoo import nerf

    keep_memory()
    folder = args.run_dir or f"runs/dfa_nerf/{Path(args.gin_file[0]).stem}"
    gin_files.call(nerf.train, run_dir=folder, config_text=gin.operative_config_str)
    last = metrics(folder, "validation")[-1]
    print(f"{folder}: {last['validation_psnr']:.2f} dB on held-out views at step {last['step']}")
    return 0


def evaluate(args: argparse.Namespace) -> None:
    """Prints a line per view, and the means."""
    problem, params = _read(args)
    from pagnol_jax.train.zoo import nerf_report

    views = nerf_report.some(problem, args.views)
    scores = nerf_report.evaluate(problem, params, args.output, args.stride, views)
    for each in scores:
        print(f"{each.view:>8}  PSNR {each.psnr:.2f} dB (coarse {each.psnr_coarse:.2f})  SSIM {each.ssim:.3f}")
    means = nerf_report.mean(scores)
    print(f"{'mean':>8}  PSNR {means['psnr']:.2f} dB (coarse {means['psnr_coarse']:.2f})  SSIM {means['ssim']:.3f}")
    print(f"{len(scores)} views and results.json in {args.output}")


def render(args: argparse.Namespace) -> None:
    """Writes the fine network's view of each name, and its depths."""
    problem, params = _read(args)
    from pagnol_jax.train.zoo import nerf_report

    nerf_report.render(problem, params, nerf_report.named(problem.scene.test, args.names), args.output, args.stride)
    print(f"wrote {', '.join(args.names)} to {args.output}")


def video(args: argparse.Namespace) -> None:
    """Writes the flight."""
    problem, params = _read(args)
    from pagnol_jax.train.zoo import nerf_report

    nerf_report.fly_around(problem, params, args.output, args.frames, args.stride)
    print(f"wrote {args.output}: {args.frames} frames")


def convert(args: argparse.Namespace) -> None:
    """Writes the weights in the other format."""
    problem, params = _read(args)
    from pagnol_jax.convert import nerf

    nerf.write(args.dest, problem.model, params)
    print(f"wrote {args.dest}")


def plot(args: argparse.Namespace) -> None:
    """Writes the figure."""
    from pagnol_jax.train.zoo import nerf_report

    nerf_report.plot(args.runs, args.output)
    print(f"wrote {args.output}")


def _read(args: argparse.Namespace) -> tuple[Problem, dict[str, Any]]:
    """What the gin files describe, and weights that fit it."""
    gin_files.parse(args.gin_file, args.gin_bindings)
    from pagnol_jax.convert import nerf as formats
    from pagnol_jax.train.cpu import keep_memory
    from pagnol_jax.train.load import load_params
    from pagnol_jax.train.zoo import nerf

    keep_memory()
    problem = gin_files.call(nerf.Problem)
    if not args.weights.is_dir():
        return problem, formats.read(args.weights, problem.model)
    params = load_params(args.weights)
    formats.check(params, problem.model, str(args.weights))
    return problem, params
