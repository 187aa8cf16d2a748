"""What a trained NeRF shows: held-out views scored and beside the truth, a fly-around, curves of its training."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from pagnol_jax.data.zoo.pictures import check_video, write_image, write_video
from pagnol_jax.data.zoo.views import Views
from pagnol_jax.errors import UserError
from pagnol_jax.train.record import write_atomically
from pagnol_jax.train.study import metrics
from pagnol_jax.train.zoo.image_quality import ssim
from pagnol_jax.train.zoo.nerf import Problem, camera, spread
from pagnol_jax.train.zoo.nerf_views import View, render_view

SMOOTHED = 20  # lines of the log behind a point of a curve


class Score(NamedTuple):
    """Of one view: PSNR of the fine and the coarse network in dB, SSIM of the fine one."""

    view: str
    psnr: float
    psnr_coarse: float
    ssim: float


def evaluate(problem: Problem, params: Any, output: Path, stride: int = 1, views: Views | None = None) -> list[Score]:
    """Scores of test views (all, or `views`), each written as output/NAME.png: the truth, the fine and the coarse view.

    stride: takes every so many-th pixel of every so many-th row. output/results.json has the scores and their means.
    Raises UserError where a file cannot be written, or a view is smaller than SSIM's window.
    """
    views = views or problem.scene.test
    if min(views.size) // stride < 11:
        raise UserError(f"every {stride}-th pixel of views of {min(views.size)} is too little to compare")
    scores = []
    with bar(problem, views, len(views.names), stride) as progress:
        for name, pose, truth in zip(views.names, views.poses, views.images, strict=True):
            seen = truth[::stride, ::stride]
            view = _render(problem, params, pose, stride, progress)
            scores.append(Score(name, *view.psnr(seen), ssim(view.fine, seen)))
            write_image(output / f"{name}.png", np.concatenate([seen, view.fine, view.coarse], axis=1))
            progress.set_postfix(psnr=f"{np.mean([each.psnr for each in scores]):.2f}")
    told = {"scene": problem.scene.name, "stride": stride, "mean": mean(scores), "views": [s._asdict() for s in scores]}
    write_atomically(output / "results.json", json.dumps(told, indent=2) + "\n")
    return scores


def mean(scores: Sequence[Score]) -> dict[str, float]:
    """Of each measure over the views."""
    return {name: float(np.mean([getattr(each, name) for each in scores])) for name in Score._fields[1:]}


def named(views: Views, names: Sequence[str]) -> Views:
    """The views of these names. Raises UserError for one that is not there."""
    if missing := [name for name in names if name not in views.names]:
        raise UserError(f"no view {missing[0]}: there are {', '.join(views.names[:3])} … {views.names[-1]}")
    chosen = [views.names.index(name) for name in names]
    return Views(list(names), views.images[chosen], views.poses[chosen], views.focal)


def some(problem: Problem, count: int | None) -> Views:
    """The test views, or `count` of them."""
    return problem.scene.test if count is None else spread(problem.scene.test, count)


def render(problem: Problem, params: Any, views: Views, output: Path, stride: int = 1) -> None:
    """Writes output/NAME.png, and NAME_depth.png where near is bright. Raises UserError where it cannot."""
    near, far = problem.sampling.near, problem.sampling.far
    with bar(problem, views, len(views.names), stride) as progress:
        for name, pose in zip(views.names, views.poses, strict=True):
            view = _render(problem, params, pose, stride, progress)
            write_image(output / f"{name}.png", view.fine)
            write_image(
                output / f"{name}_depth.png", np.repeat((far - view.depth)[..., None] / (far - near), 3, axis=2)
            )


def fly_around(problem: Problem, params: Any, output: Path, frames: int, stride: int = 1) -> None:
    """Writes a moving .webp, .gif or .png of `frames` pictures along the scene's path.

    Raises UserError for another suffix and where it cannot.
    """
    check_video(output)
    poses = problem.scene.path[np.linspace(0, len(problem.scene.path), frames, endpoint=False).astype(int)]
    with bar(problem, problem.scene.test, frames, stride) as progress:
        write_video(output, [_render(problem, params, pose, stride, progress).fine for pose in poses], frames / 6)


def bar(problem: Problem, views: Views, count: int, stride: int) -> tqdm:
    """A bar that counts rays."""
    height, width = views.size
    rays = count * -(-height // stride) * -(-width // stride)
    return tqdm(total=rays, desc=problem.scene.name, unit="ray", unit_scale=True, dynamic_ncols=True)


def _render(problem: Problem, params: Any, pose: np.ndarray, stride: int, progress: tqdm) -> View:
    place = camera(problem.scene.test, problem.sampling)
    return render_view(problem.model, problem.sampling, params, place, pose, stride, progress.update)


def plot(folders: Sequence[Path], output: Path) -> None:
    """Curves of runs: PSNR of the training rays, smoothed, and of held-out views.

    Raises UserError for a folder that is no run of a NeRF or has no line of its training yet, and for a file that
    cannot be written.
    """
    from matplotlib.figure import Figure

    from pagnol_jax.scaling.plots import style

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    looks = itertools.product(style.MARKERS, style.LIGHT.series)  # where colours come again, points look otherwise
    for folder, (marker, colour) in zip(folders, itertools.cycle(looks), strict=False):
        steps, values = _curve(folder, None, "psnr")
        if not len(values):
            raise UserError(f"{folder}: no line of its training yet")
        width = min(SMOOTHED, len(values))
        smooth = np.convolve(values, np.full(width, 1 / width), mode="valid")
        axes.plot(steps[width - 1 :], smooth, color=colour, alpha=0.5, lw=1, label=f"{folder.name}, training rays")
        points = _curve(folder, "validation", "validation_psnr")
        axes.plot(*points, f"{marker}-", color=colour, ms=4, label=f"{folder.name}, held-out views")
    axes.set(xlabel="step", ylabel="PSNR (dB)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, dpi=150)
    except (OSError, ValueError) as error:  # ValueError: a suffix that matplotlib does not know
        raise UserError(f"{output}: cannot be written: {error}") from None


def _curve(folder: Path, split: str | None, measure: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a measure in the lines of a split, [n] each. Raises UserError for another study's run."""
    lines = metrics(folder, split)
    if not all(measure in line for line in lines):
        raise UserError(f"{folder} is no run of a NeRF: its metrics.jsonl has no {measure}")
    return np.array([line["step"] for line in lines]), np.array([line[measure] for line in lines])
