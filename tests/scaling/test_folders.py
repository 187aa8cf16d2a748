from pathlib import Path

import numpy as np
import pytest
from scaling.builders import write_run

from pagnol_jax.errors import UserError
from pagnol_jax.scaling import NON_EMBEDDING, TOTAL, WITH_ATTENTION, read_runs, with_convention
from pagnol_jax.scaling.folders import read_run_folder


def test_one_corpus(tmp_path: Path) -> None:
    run = read_run_folder(write_run(tmp_path / "a"), "wiki")
    assert run.name == "a"
    assert run.convention == NON_EMBEDDING
    assert run.curve.tokens.tolist() == [500_000, 1_000_000]
    assert run.curve.compute_flops.tolist() == [3e9, 6e9]
    np.testing.assert_allclose(run.curve.loss_nats_per_token, 20 * run.curve.compute_flops**-0.05)
    assert (run.parameters, run.parameters_non_embedding) == (2000, 1000)
    assert run.annealed is True
    assert run.bytes_per_token == 4
    assert run.corpus == "wiki aaaaaaaaaaaa"
    assert run.tokenizer == "ffffffffffff of 512"
    assert (run.learning_rate, run.batch_tokens) == (1e-3 / 5, 100_000)


def test_mean_over_corpora_is_weighted_by_tokens(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    wiki, mean = read_run_folder(folder, "wiki"), read_run_folder(folder)
    np.testing.assert_allclose(mean.curve.loss_nats_per_token, wiki.curve.loss_nats_per_token + 1 / 4)
    assert mean.bytes_per_token == pytest.approx(3 / 4 * 4 + 1 / 4 * 3)
    assert mean.corpus == "books bbbbbbbbbbbb + wiki aaaaaaaaaaaa"


def test_conventions_of_a_run_folder(tmp_path: Path) -> None:
    run = read_run_folder(write_run(tmp_path / "a"))
    tokens = run.curve.tokens
    np.testing.assert_allclose(with_convention(run, TOTAL).curve.compute_flops, 12_000 * tokens)
    np.testing.assert_allclose(with_convention(run, WITH_ATTENTION).curve.compute_flops, 7_000 * tokens)


def test_a_run_of_old_says_nothing_of_its_batch_or_learning_rate(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", tokens_per_step=None)
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(line for line in lines if "validation" in line))
    run = read_run_folder(folder)
    assert (run.learning_rate, run.batch_tokens) == (None, None)


def test_unfinished_run_is_not_annealed(tmp_path: Path) -> None:
    assert read_run_folder(write_run(tmp_path / "a", seen=(5,))).annealed is False


def test_half_a_last_line_and_repeated_steps_are_survived(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    whole = read_run_folder(folder)
    metrics = folder / "metrics.jsonl"
    text = metrics.read_text()
    metrics.write_text(text + text + '{"step": 11, "tok')
    np.testing.assert_array_equal(read_run_folder(folder).curve, whole.curve)


def test_corpora_listed_by_what_they_serve_for(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", corpora={"corpus wiki": "c" * 16, "validation of wiki": "d" * 16})
    assert read_run_folder(folder, "wiki").corpus == "wiki cccccccccccc/dddddddddddd"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("metrics.jsonl", "", "has no validation loss yet"),
        ("metrics.jsonl", "{\n{}\n", "metrics.jsonl line 1 is not JSON"),
        ("metrics.jsonl", "[]\n", "metrics.jsonl line 1 is not a JSON object"),
        ("metrics.jsonl", '{"split": "validation", "corpus": "wiki", "step": 1}\n', "lacks 'tokens'"),
        ("run.json", "{", "run.json cannot be read"),
        ("run.json", "[]", "run.json is not a JSON object"),
        ("run.json", "{}", "lacks 'tokenizer'"),
    ],
)
def test_bad_folders_are_told_in_one_line(tmp_path: Path, file: str, text: str, message: str) -> None:
    folder = write_run(tmp_path / "a")
    (folder / file).write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_run_folder(folder)
    assert "\n" not in str(error.value)


def test_unknown_corpus_and_missing_metrics(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    with pytest.raises(UserError, match="no validation loss on corpus 'ftb'; it has books, wiki"):
        read_run_folder(folder, "ftb")
    (folder / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be read"):
        read_run_folder(folder)


def test_reads_folders_parents_and_tables_once_each(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / "ladder" / name)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "t.csv").write_text("run,flops,loss\nc,1,2\n")
    (tmp_path / "tables" / "u.jsonl").write_text('{"run": "d", "flops": 1, "loss": 2}')
    paths = [
        tmp_path / "ladder",
        tmp_path / "ladder" / "a",
        tmp_path / "tables",
        tmp_path / "tables" / "t.csv",
    ]
    assert [run.name for run in read_runs(paths)] == ["a", "b", "c", "d"]
    assert [run.name for run in read_runs(paths, exclude=["b", "c"])] == ["a", "d"]


def test_a_run_that_cannot_be_read_can_be_left_out(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    (write_run(tmp_path / "b") / "metrics.jsonl").unlink()
    assert [run.name for run in read_runs([tmp_path], exclude=["b"])] == ["a"]


def test_paths_that_hold_no_runs(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "a")
    write_run(tmp_path / "more" / "a")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("")
    for name, message in (
        ("none", "does not exist"),
        ("empty", "holds no run"),
        ("notes.txt", "neither a run"),
    ):
        with pytest.raises(UserError, match=message):
            read_runs([tmp_path / name])
    with pytest.raises(UserError, match="--exclude z: no such run; there are a"):
        read_runs([tmp_path / "runs"], exclude=["z"])
    with pytest.raises(UserError, match="two runs are named 'a'"):
        read_runs([tmp_path / "runs", tmp_path / "more"])
