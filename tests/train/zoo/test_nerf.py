"""NeRF's runs through the command: what they write, that they resume, what each file of gin describes, and errors."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from data.toy_scene import SIDE, write_blender, write_llff
from matplotlib.figure import Figure
from PIL import Image

from pagnol_jax.cli import gin_files
from pagnol_jax.cli.main import main
from pagnol_jax.errors import UserError
from pagnol_jax.train.zoo import nerf, nerf_report

GIN = gin_files.SEARCH_PATH[0]
LEAVES = sorted(str(path.relative_to(GIN)) for path in (GIN / "dfa/nerf").glob("*_*.gin"))
SMALL = [
    "--gin.field.Nerf.width=16",
    "--gin.field.Nerf.depth=2",
    "--gin.rendering.blender_sampling.coarse=6",
    "--gin.rendering.blender_sampling.fine=6",
    "--gin.RAYS=32",
    "--gin.nerf.train.crop_steps=0",
    "--gin.nerf.train.evaluate_every=4",
    "--gin.nerf.train.evaluate_views=2",
    "--gin.nerf.train.checkpoint_every=3",
    "--gin.nerf.train.log_every=1",
]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "toy"
    write_blender(folder)
    return folder


def pagnol(scene: Path, command: str, file: str, *more: object) -> int:
    given = ["dfa", "nerf", command, "--gin_file", file, f"--gin.SCENE='{scene}'", *SMALL]
    return main([*given, *map(str, more)])


@pytest.fixture(scope="module")
def runs(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Six steps by backprop and by DFA."""
    folder = tmp_path_factory.mktemp("runs")
    for rule in ("bp", "dfa"):
        where = ("--run_dir", folder / rule, "--gin.TOTAL_STEPS=6")
        assert pagnol(scene, "train", f"dfa/nerf/lego_{rule}_cpu.gin", *where) == 0
    return {rule: folder / rule for rule in ("bp", "dfa")}


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_explains_itself(runs: dict[str, Path]) -> None:
    for rule, name in (("bp", "backprop"), ("dfa", "dfa")):
        described = json.loads((runs[rule] / "run.json").read_text())
        assert described["rule"]["name"] == name
        assert described["scene"] == {"name": "toy", "views": 3, "size": [SIDE, SIDE]}
        assert described["model"]["width"] == 16
        steps = [line for line in metrics(runs[rule]) if "split" not in line]
        evaluations = [line["step"] for line in metrics(runs[rule]) if "split" in line]
        assert [line["step"] for line in steps] == list(range(1, 7))
        assert evaluations == [4, 6]
        mse = [10 ** (-steps[0][key] / 10) for key in ("psnr", "psnr_coarse")]
        assert steps[0]["loss"] == pytest.approx(sum(mse), rel=1e-4)
        assert "nerf.train" in (runs[rule] / "config.gin").read_text()


def test_the_rules_begin_alike_and_learn_otherwise(runs: dict[str, Path]) -> None:
    """The same network, rays and samples: the first loss is the same, the loss after a step is not."""
    (bp, bp_next, *_), (dfa, dfa_next, *_) = (metrics(runs[rule]) for rule in ("bp", "dfa"))
    assert bp["loss"] == pytest.approx(dfa["loss"], rel=1e-5)
    assert bp_next["loss"] != pytest.approx(dfa_next["loss"], rel=1e-5)


def test_resumed_exactly(runs: dict[str, Path], scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """From step 3 on, feedback matrices included."""
    copy = Path(shutil.copytree(runs["dfa"], tmp_path / "dfa"))
    shutil.rmtree(copy / "checkpoints" / "6")
    assert pagnol(scene, "train", "dfa/nerf/lego_dfa_cpu.gin", "--run_dir", copy, "--gin.TOTAL_STEPS=6") == 0
    assert (copy / "metrics.jsonl").read_bytes() == (runs["dfa"] / "metrics.jsonl").read_bytes()
    last = metrics(copy)[-1]["validation_psnr"]
    assert capsys.readouterr().out == f"{copy}: {last:.2f} dB on held-out views at step 6\n"


@pytest.mark.parametrize("file", LEAVES)
def test_every_file_traces_at_its_own_size(file: str, scene: Path, tmp_path: Path) -> None:
    """The network, rule and rays of the file; only the scene is a toy."""
    if "fern" in file:
        write_llff(scene := tmp_path / "fern", views=4, reduced=4)
    sizes = ["RAYS=64"] if "fern" in file else [f"RAYS={SIDE * SIDE // 4}"]
    gin_files.parse([file], [f"SCENE='{scene}'", *sizes])
    found = gin_files.bindings(nerf.train)
    steps = nerf.make_steps(found["problem"], found["rule"], nerf.adam(1e-3, 10), found["rays"])
    state = jax.eval_shape(steps.init, jax.random.key(0))
    after, told = jax.eval_shape(steps.update, state, nerf.sample(found["problem"].scene.train, found["rays"], 0, 0))
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert set(told) == {"loss", "psnr", "psnr_coarse"}
    count = sum(x.size for x in jax.tree.leaves(state.params["fine"]))
    assert count == (595_844 if "8x256" in file else 84_548)
    matrices = [x.shape for x in jax.tree.leaves(state.feedback)]
    assert matrices == ([(4, found["problem"].model.width)] * 2 if "_dfa" in file else [])


def test_batches_are_pixels_of_one_view(scene: Path) -> None:
    gin_files.parse(["dfa/nerf/lego_dfa.gin"], [f"SCENE='{scene}'"])
    views = gin_files.call(nerf.Problem).scene.train
    for step in range(20):
        batch, again = (nerf.sample(views, 30, 7, step, crop_steps=10) for _ in range(2))
        for x, y in zip(batch, again, strict=True):
            np.testing.assert_array_equal(x, y)
        (view,) = [i for i, pose in enumerate(views.poses) if np.array_equal(pose, batch.pose)]
        np.testing.assert_array_equal(batch.colours, views.images[view][batch.rows, batch.columns])
        assert len(set(zip(batch.rows, batch.columns, strict=True))) == 30
        inside = all((x >= SIDE // 4).all() and (x < 3 * SIDE // 4).all() for x in (batch.rows, batch.columns))
        assert inside == (step < 10)


def test_evaluate_render_video_convert(
    runs: dict[str, Path], scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A run's weights through every command; as a .ckpt they score the same."""
    file, of_run = "dfa/nerf/lego_bp_cpu.gin", ("--weights", runs["bp"])
    assert pagnol(scene, "evaluate", file, *of_run, "--output", tmp_path / "a") == 0
    told = json.loads((tmp_path / "a" / "results.json").read_text())
    assert [view["view"] for view in told["views"]] == ["r_0", "r_1"]
    last = [line for line in metrics(runs["bp"]) if "split" in line][-1]
    assert told["mean"]["psnr"] == pytest.approx(last["validation_psnr"], abs=2.0)  # there every 8th pixel
    with Image.open(tmp_path / "a" / "r_1.png") as beside:
        assert beside.size == (3 * SIDE, SIDE)
        truth = np.asarray(beside)[:, :SIDE] / 255
    problem = gin_files.call(nerf.Problem)
    np.testing.assert_allclose(truth, problem.scene.test.images[1], atol=0.51 / 255)
    assert f"mean  PSNR {told['mean']['psnr']:.2f} dB" in capsys.readouterr().out

    assert pagnol(scene, "convert", file, *of_run, tmp_path / "x.ckpt") == 0
    assert pagnol(scene, "evaluate", file, "--weights", tmp_path / "x.ckpt", "--output", tmp_path / "b") == 0
    assert (tmp_path / "b" / "results.json").read_bytes() == (tmp_path / "a" / "results.json").read_bytes()

    assert pagnol(scene, "render", file, *of_run, "--output", tmp_path / "c", "--stride", 5, "r_1") == 0
    for name in ("r_1.png", "r_1_depth.png"):
        with Image.open(tmp_path / "c" / name) as picture:
            assert picture.size == (5, 5)
    video = ("--output", tmp_path / "x.webp", "--frames", 3, "--stride", 4)
    assert pagnol(scene, "video", file, *of_run, *video) == 0
    with Image.open(tmp_path / "x.webp") as moving:
        assert (moving.size, moving.n_frames) == ((6, 6), 3)
    assert main(["dfa", "nerf", "plot", *map(str, runs.values()), "--output", str(tmp_path / "curves.png")]) == 0
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_errors_in_a_line(
    runs: dict[str, Path], scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = "dfa/nerf/lego_bp_cpu.gin"
    (tmp_path / "bad.ckpt").write_text("no checkpoint")

    def told(*command: object, where: Path = scene) -> str:
        capsys.readouterr()
        assert pagnol(where, *command) == 2  # type: ignore[arg-type]
        (line,) = [x for x in capsys.readouterr().err.splitlines() if "%|" not in x]
        return line

    out = ("--output", tmp_path / "out")
    assert "no such folder of a scene" in told("train", file, "--run_dir", tmp_path / "r", where=tmp_path / "none")
    assert "bad.ckpt: not a file of torch tensors alone" in told(
        "evaluate", file, "--weights", tmp_path / "bad.ckpt", *out
    )
    assert "is not a run folder" in told("evaluate", file, "--weights", tmp_path, *out)
    other = "--gin.field.Nerf.octaves=(4, 2)"
    assert "is not of the network configured" in told("evaluate", file, "--weights", runs["bp"], *out, other)
    assert "no view r_9: there are r_0" in told("render", file, "--weights", runs["bp"], *out, "r_9")
    assert "too little to compare" in told("evaluate", file, "--weights", runs["bp"], *out, "--stride", 3)
    assert "give a file of suffix" in told("video", file, "--weights", runs["bp"], "--output", tmp_path / "x.mp4")
    fresh = "train", file, "--run_dir", tmp_path / "r"
    assert "total_steps 0 is not a whole number above 0" in told(*fresh, "--gin.TOTAL_STEPS=0")
    assert "evaluate_views 0 is not a" in told(*fresh, "--gin.nerf.train.evaluate_views=0")
    other = "--gin.LEARNING_RATE=1e-5"
    assert "holds a run with another optimizer" in told("train", file, "--run_dir", runs["bp"], other)
    assert "not from 1 to a quarter" in told("train", file, "--run_dir", tmp_path / "r", "--gin.RAYS=200")


@pytest.mark.parametrize("count", ["-3", "0", "two"])
def test_counts_are_whole_numbers_above_0(count: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["dfa", "nerf", "evaluate", "--gin_file", "x", "--weights", "x", "--output", "x", "--views", count])
    assert f"argument --views: '{count}' is not a whole number above 0\n" in capsys.readouterr().err


def logged(folder: Path, *lines: dict[str, Any]) -> Path:
    """A run folder with these metrics."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_curves_of_many_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All are drawn, each as no other is."""
    lines = {"step": 1, "psnr": 10.0}, {"step": 2, "split": "validation", "validation_psnr": 9.0}
    folders = [logged(tmp_path / f"run{i}", *lines) for i in range(7)]
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: drawn.append(self))
    nerf_report.plot(folders, tmp_path / "curves.png")
    curves = drawn[0].axes[0].lines
    assert [line.get_label() for line in curves[::2]] == [f"run{i}, training rays" for i in range(7)]
    assert len({(line.get_color(), line.get_marker()) for line in curves[1::2]}) == 7


def test_curves_of_no_nerf_are_told_in_a_line(tmp_path: Path) -> None:
    other, empty = logged(tmp_path / "other", {"step": 1, "loss": 2.0}), logged(tmp_path / "empty")
    with pytest.raises(UserError, match=r"other is no run of a NeRF: its metrics.jsonl has no psnr"):
        nerf_report.plot([other], tmp_path / "curves.png")
    with pytest.raises(UserError, match=r"empty: no line of its training yet"):
        nerf_report.plot([empty], tmp_path / "curves.png")
