"""`pagnol train` and `pagnol ladder`: every bad input is one line and status 2."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_run import BAR, Tiny, use

from pagnol_jax.cli.main import main

Told = Callable[..., str]


@pytest.fixture
def told(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Told:
    """Runs `pagnol train` on the tiny files in this process, which fails; gives its one line."""
    use(monkeypatch, tiny)
    monkeypatch.chdir(tmp_path)

    def run(*more: str, files: tuple[object, ...] = (tiny.gin,), run_dir: str = "run") -> str:
        files_given = [argument for file in files for argument in ("--gin_file", str(file))]
        assert main(["train", *files_given, "--run_dir", run_dir, *more]) == 2
        lines = [x for x in re.split(r"[\r\n]+", capsys.readouterr().err) if x and not BAR.search(x)]
        assert len(lines) == 1, lines
        assert lines[0].startswith("pagnol: error: ")
        assert "configurable '" not in lines[0]
        return lines[0].removeprefix("pagnol: error: ")

    return run


LEARNED = """
from __gin__ import dynamic_registration
from pagnol_jax.models import config
from pagnol_jax.models import positions
config.GPTConfig.position = @positions.learned()
"""


def write(name: str, text: str) -> str:
    Path(name).write_text(text)
    return name


@pytest.mark.parametrize(
    ("binding", "said"),
    [
        ("NO_SUCH=1", "gin: unknown name NO_SUCH: nothing here uses it"),
        ("run.train.no_such=1", "doesn't have a parameter named 'no_such'"),
        ("no.such.thing=1", "No configurable matching 'no.such'"),
        ("TOTAL_STEPS", "--gin.TOTAL_STEPS: Couldn't parse statement"),
        ("TOTAL_STEPS=ten", "--gin.TOTAL_STEPS=ten: malformed"),
        ("TOTAL_STEPS='ten'", "warmup_cosine: '>=' not supported"),
        ("TOTAL_STEPS=5", "a run of 5 steps is too short for 5 steps of warm-up and decay"),
        ("BATCH_SIZE=0", "batch_size 0 is not a whole number above 0"),
        ("BATCH_SIZE=2.5", "batch_size 2.5 is not a whole number above 0"),
        ("run.train.keep=-1", "keep -1 is not a whole number above 0"),
        ("config.GPTConfig.d_model='x'", "gin: GPTConfig: "),
        ("config.GPTConfig.d_model=33", "d_model 33 is not a multiple of num_heads 2"),
        ("VOCAB_SIZE=3", "vocab_size 3 is below 262"),
    ],
)
def test_bad_bindings(told: Told, binding: str, said: str) -> None:
    assert said in told(f"--gin.{binding}")
    assert not Path("run").exists()


def test_bad_files(told: Told, tiny: Tiny) -> None:
    bad = write("bad.gin", "run.train.no_such = 3\n")
    assert "named 'no_such'. (file \"bad.gin\", line 1)" in told(files=(tiny.gin, bad))
    assert "bad2.gin, line 1" in told(files=(write("bad2.gin", "NOPE = \n"),))
    module = write("bad3.gin", "from __gin__ import dynamic_registration\nfrom pagnol_jax.nope import x\n")
    assert "No module named 'pagnol_jax.nope'" in told(files=(module,))
    assert "Unable to open file: none.gin" in told(files=("none.gin",))
    unused = write("unused.gin", "TOTAL_STEP = 3\n")
    assert told(files=(tiny.gin, unused)) == "gin: unknown name TOTAL_STEP: nothing here uses it"


def test_incomplete_files(told: Told) -> None:
    names = "BATCH_SIZE, LEARNING_RATE, LENGTH, TOTAL_STEPS, WARMUP_STEPS"
    assert f"no value for {names}: give --gin.BATCH_SIZE=" in told(files=("runs/base.gin",))
    assert "PATTERN" in told(files=("models/cpu_1.gin", "data/files.gin"))
    assert "missing 5 required positional arguments: 'mixture'" in told(files=("models/cpu_1.gin",))
    file = write("file.gin", "include 'models/gpt.gin'\n")
    assert "train" in told(files=(file,))


def corpus(pattern: str) -> str:
    return f"--gin.PATTERN='{pattern}'"


def test_bad_corpora(told: Told) -> None:
    Path("empty.jsonl").write_text("")
    Path("blank.txt").write_text(" \n\n")
    Path("latin.txt").write_bytes("Où est passé l'été ?".encode("latin-1"))
    Path("broken.jsonl").write_text('{"text": "bien"}\n{"text": \n')
    assert "is empty: no text to train on" in told(corpus("empty.jsonl"))
    assert "is empty: no text to train on" in told(corpus("blank.txt"))
    assert "latin.txt:1: not UTF-8" in told(corpus("latin.txt"))
    assert "broken.jsonl:2: not JSON" in told(corpus("broken.jsonl"))
    assert "missing.jsonl: no such file" in told(corpus("missing.jsonl"))
    assert "fr.csv: ends in none of" in told(corpus("fr.csv"))
    unset = told(corpus("$PAGNOL_DATA_DIR/fr.jsonl"))
    assert "the environment variable PAGNOL_DATA_DIR is not set" in unset


def test_meshes_that_do_not_divide(told: Told) -> None:
    """Eight devices."""
    mesh = "--gin.mesh.make_mesh"
    assert "does not divide the 8 devices at hand" in told(f"{mesh}.data=3")
    assert "does not divide batch_size 4 by 8" in told()
    heads = told(f"{mesh}.data=1", f"{mesh}.tensor=8")
    assert "num_heads 2 by 8" in heads
    length = told(f"{mesh}.data=1", f"{mesh}.sequence=8", "--gin.LENGTH=12")
    assert "length 12 by 8" in length


def test_sizes_that_do_not_fit(told: Told, tiny: Tiny) -> None:
    eight = "--gin.BATCH_SIZE=8"
    parts = told(eight, "--gin.run.train.microbatches=3")
    assert parts == "batch_size 8 is not a multiple of microbatches 3"
    learned = write("learned.gin", LEARNED)
    longer = told(eight, "--gin.LENGTH=64", files=(tiny.gin, learned))
    assert longer == "length 64 is more than the 32 positions that the model learns"
    assert "do not fill one window of 100000" in told(eight, "--gin.LENGTH=100_000")


@pytest.fixture(scope="module")
def done(tiny: Tiny) -> Path:
    """A run of six steps over eight devices."""
    run_dir = tiny.folder / "done"
    with pytest.MonkeyPatch.context() as patch:
        use(patch, tiny)
        command = ["train", "--gin_file", str(tiny.gin), "--run_dir", str(run_dir)]
        assert main([*command, "--gin.BATCH_SIZE=8", "--gin.TOTAL_STEPS=6"]) == 0
    return run_dir


SAME = ("--gin.BATCH_SIZE=8", "--gin.TOTAL_STEPS=6")


@pytest.mark.parametrize(
    ("binding", "said"),
    [
        ("config.GPTConfig.num_layers=1", "model"),
        ("run.train.seed=7", "seed and batches"),
        ("BATCH_SIZE=16", "tokens_per_step and batches"),
        ("mixture.Mixture.rates={'files': 2.0}", "rates and batches"),
    ],
)
def test_folder_of_another_run(told: Told, done: Path, binding: str, said: str) -> None:
    before = {path.name: path.read_bytes() for path in done.iterdir() if path.is_file()}
    expected = f"{done} holds a run with another {said}; name another folder"
    assert told(*SAME, f"--gin.{binding}", run_dir=str(done)) == expected
    assert {path.name: path.read_bytes() for path in done.iterdir() if path.is_file()} == before


def test_folder_with_another_tokenizer(told: Told, done: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(done, tmp_path / "copy"))
    record = json.loads((copy / "run.json").read_text())
    record["tokenizer"]["fingerprint"] = "0"
    (copy / "run.json").write_text(json.dumps(record))
    assert "another tokenizer;" in told(*SAME, run_dir=str(copy))
    (copy / "run.json").write_text("{")
    assert "is not a run folder" in told(*SAME, run_dir=str(copy))


def test_another_optimiser_is_not_damage(told: Told, done: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(done, tmp_path / "copy"))
    wrapped = write(
        "wrapped.gin",
        "from __gin__ import dynamic_registration\n"
        "from pagnol_jax.train import run\nimport tiny_run\n"
        "run.train.optimizer = @tiny_run.plain_sgd()\n",
    )
    told_line = told(*SAME, files=(tiny_gin(done), wrapped), run_dir=str(copy))
    assert told_line == f"checkpoint 6 of {copy}/checkpoints holds another model or optimiser than configured"
    assert {path.name for path in (copy / "checkpoints").iterdir()} == {"6"}


def tiny_gin(run_dir: Path) -> Path:
    return run_dir.parent / "tiny.gin"


def test_a_folder_that_may_not_be_written(told: Told) -> None:
    Path("file").write_text("")
    assert "file" in told("--gin.BATCH_SIZE=8", run_dir="file/run")


def fails(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("pagnol: error: ")
    return last


def test_generate_refuses(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    long = "La fée regarde la mer. " * 40
    assert "32" in fails(capsys, "generate", long, "--model", done)
    other = json.loads((done / "tokenizer.json").read_text())
    vocab = other["model"]["vocab"]
    other["model"]["vocab"] = {token: vocab[token] for token in vocab if vocab[token] < len(vocab) - 5}
    other["model"]["merges"] = other["model"]["merges"][:-5]
    (tmp_path / "other.json").write_text(json.dumps(other))
    assert "token" in fails(capsys, "generate", "La", "--model", done, "--tokenizer", tmp_path / "other.json")
    assert "is neither a run folder" in fails(capsys, "generate", "La", "--model", tmp_path)


def test_ladder(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    use(monkeypatch, tiny)
    monkeypatch.chdir(tmp_path)
    for size in (16, 32):
        rung = f"config.GPTConfig.d_model = {size}\n"
        head = "from __gin__ import dynamic_registration\nfrom pagnol_jax.models import config\n"
        write(f"d{size}.gin", head + rung)
    small = "--gin.config.GPTConfig.num_layers=1"
    ladder = ["ladder", "--gin_file", str(tiny.gin), *SAME, small, "--output", "out"]
    assert "names no rungs" in fails(capsys, *ladder)
    assert "Unable to open file: no.gin" in fails(capsys, *ladder, "--gin.RUNGS={'1': ['no.gin']}")
    assert "names no rungs" in fails(capsys, *ladder, "--gin.RUNGS=['d16.gin']")
    rungs = "--gin.RUNGS={'d16': ['d16.gin', 'run.train.keep = 1'], 'd32': ['d32.gin']}"
    assert main([*ladder, rungs]) == 0
    assert json.loads(Path("out/d16/run.json").read_text())["model"]["d_model"] == 16
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("checkpoints/6/*")}
    assert main([*ladder, rungs]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in Path("out").rglob("checkpoints/6/*")}
