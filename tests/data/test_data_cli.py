"""`pagnol tokenizer` and `pagnol data`, and every gin file of `gin/data`."""

import argparse
import json
import sys
from pathlib import Path

import pytest

from pagnol_jax.cli import data as data_command
from pagnol_jax.cli import gin_files
from pagnol_jax.cli import tokenizer as tokenizer_command
from pagnol_jax.data.mixture import check
from pagnol_jax.data.vocabulary import Tokenizer
from pagnol_jax.errors import UserError

GIN = Path(__file__).parents[2] / "gin" / "data"


def run(*arguments):
    top = argparse.ArgumentParser()
    subparsers = top.add_subparsers(required=True)
    for command in (data_command, tokenizer_command):
        command.add_parser(subparsers)
    bindings = [a.removeprefix("--gin.") for a in arguments if a.startswith("--gin.")]
    args = top.parse_args([a for a in arguments if not a.startswith("--gin.")])
    args.gin_bindings = bindings
    return args.run(args)


@pytest.fixture(autouse=True)
def no_test_folder_as_package(monkeypatch):
    """gin would take tests/data, on pytest's path, for the package of `data/files.gin`."""
    tests = str(Path(__file__).parents[1])
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder != tests])


@pytest.fixture
def texts(tmp_path):
    lines = [json.dumps({"text": f"Une fée n° {i} vivait là.\n" * 3}) + "\n" for i in range(300)]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(lines))
    return path


MIXTURES = sorted(path for path in GIN.glob("*.gin") if path.stem != "matched")  # what two of them share


@pytest.mark.parametrize("path", MIXTURES, ids=lambda path: path.stem)
def test_every_gin_file_is_a_sound_mixture(path):
    bindings = ["PATTERN='a.jsonl'"] if path.stem == "files" else []
    gin_files.parse([f"data/{path.name}"], bindings)
    from pagnol_jax.data.mixture import Mixture

    mixture = gin_files.call(Mixture)
    check(mixture)
    assert type(mixture) is Mixture
    assert mixture.name == path.stem
    assert path.read_text().startswith("# ")


def test_tokenizer_train(texts, tmp_path, capsys):
    run(
        "tokenizer",
        "train",
        "--corpus",
        str(texts),
        "--vocab_size",
        "280",
        "--output",
        str(tmp_path / "a/t.json"),
    )
    assert "280 tokens (18 merges)" in capsys.readouterr().out
    assert Tokenizer.load(tmp_path / "a/t.json").vocab_size == 280
    binding = f"--gin.PATTERN={str(texts)!r}"
    run(
        "tokenizer",
        "train",
        "--gin_file",
        "data/files.gin",
        binding,
        "--vocab_size",
        "280",
        "--output",
        str(tmp_path / "b.json"),
    )
    assert Tokenizer.load(tmp_path / "b.json").fingerprint == Tokenizer.load(tmp_path / "a/t.json").fingerprint


def test_build_then_info(texts, tmp_path, capsys):
    rest = ["--gin_file", "data/files.gin", f"--gin.PATTERN={str(texts)!r}", "--gin.VOCAB_SIZE=280"]
    rest += ["--cache_dir", str(tmp_path / "cache")]
    with pytest.raises(UserError, match="no token cache"):
        run("data", "info", *rest)
    run("data", "build", "--workers", "1", *rest)
    built = capsys.readouterr().out
    run("data", "info", "--verify", *rest)
    assert capsys.readouterr().out == built
    assert "280 tokens in the vocabulary" in built
    assert len([line for line in built.splitlines() if line.startswith("files ")]) == 2


def test_an_empty_corpus_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": " "}\n')
    rest = [
        "--gin_file",
        "data/files.gin",
        f"--gin.PATTERN={str(tmp_path / 'a.jsonl')!r}",
        "--cache_dir",
        str(tmp_path),
    ]
    with pytest.raises(UserError, match="corpus 'files' is empty: no text to train on in jsonl"):
        run("data", "build", *rest)


def test_pagnol_size_on_real_text(data_dir, tmp_path, capsys):
    pattern = str(data_dir / "corpora/fr/encyclopaedia.train.jsonl.zst")
    output = tmp_path / "tokenizer.json"
    run("tokenizer", "train", "--corpus", pattern, "--vocab_size", "50262", "--output", str(output))
    assert "50,262 tokens (50,000 merges)" in capsys.readouterr().out
    model = json.loads(output.read_text())["model"]
    assert (len(model["vocab"]), len(model["merges"])) == (50_262, 50_000)
