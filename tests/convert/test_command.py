"""`pagnol convert` from end to end, through its own entry point."""

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from convert.toy_models import assert_same_bits, random_params

from pagnol_jax.cli import convert
from pagnol_jax.cli.main import main
from pagnol_jax.convert import formats
from pagnol_jax.data.bpe import train_bpe
from pagnol_jax.models import positions, store
from pagnol_jax.models.config import GPTConfig
from pagnol_jax.train.checkpoint import Checkpoints
from pagnol_jax.train.record import RunFolder
from pagnol_jax.train.step import State

CONFIG = GPTConfig(300, 2, 24, 3, max_length=7, dropout_rate=0.1)


@pytest.fixture(autouse=True)
def this_command_alone(monkeypatch):
    monkeypatch.setattr("pagnol_jax.cli.main.COMMANDS", ("convert",))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    train_bpe(["Bonjour le monde, comment ça va ? Au revoir le monde."] * 3, 290).save(tmp_path / "t/tokenizer.json")
    store.save(tmp_path / "source", CONFIG, random_params(CONFIG), tmp_path / "t/tokenizer.json")
    return tmp_path / "source"


def test_choices_are_the_formats():
    assert tuple(formats.FORMATS) == convert.FORMATS


def test_around_the_formats(source: Path, tmp_path: Path, capsys):
    """pagnol -> Hugging Face -> LairGPT -> pagnol: configuration, bits and tokenizer are the same."""
    gpt2, pt, back = tmp_path / "gpt2", tmp_path / "lair" / "pagnol.pt", tmp_path / "back"
    assert main(["convert", str(source), str(gpt2), "--to", "huggingface"]) == 0
    out = capsys.readouterr().out
    assert "2 layers, width 24, 3 heads, learned positions" in out
    assert "a tokenizer" in out
    assert f"{CONFIG.parameters():,} parameters in {len(store.shapes(CONFIG))} float32 tensors" in out
    assert f"wrote {gpt2} (Hugging Face GPT2LMHeadModel)" in out
    assert main(["convert", str(gpt2), str(pt), "--to", "lairgpt"]) == 0
    assert main(["convert", str(pt), str(back), "--to", "pagnol", "--num_heads", "3"]) == 0
    (one, params, tokenizer), (two, again, copy) = store.load(source), store.load(back)
    assert one == two == CONFIG
    assert_same_bits(params, again)
    assert tokenizer
    assert copy
    assert formats.huggingface.tokenizer.to_huggingface(tokenizer.read_text("utf-8")) == (
        formats.huggingface.tokenizer.to_huggingface(copy.read_text("utf-8"))
    )


def test_run_folder(source: Path, tmp_path: Path, capsys):
    """What a run saved, optimiser state and all, comes out as a model with its tokenizer."""
    params, folder = random_params(CONFIG), RunFolder(tmp_path / "run")
    with folder.locked():
        folder.open({"model": CONFIG.to_json(), "total_steps": 1}, source / "tokenizer.json", config="")
    checkpoints = Checkpoints(folder.checkpoints)
    checkpoints.save(State(jnp.ones((), jnp.int32), jax.tree.map(jnp.asarray, params), {"mu": jnp.ones(3)}), {})
    checkpoints.wait()
    checkpoints.close()
    assert main(["convert", str(tmp_path / "run"), str(tmp_path / "out"), "--to", "pagnol"]) == 0
    assert "(run)" in capsys.readouterr().out
    config, again, tokenizer = store.load(tmp_path / "out")
    assert config == CONFIG
    assert tokenizer
    assert tokenizer.read_text("utf-8") == (source / "tokenizer.json").read_text("utf-8")
    assert_same_bits(again, params)


def test_run_without_checkpoint(tmp_path: Path, capsys):
    (tmp_path / "run.json").write_text(json.dumps({"model": CONFIG.to_json()}))
    assert main(["convert", str(tmp_path), str(tmp_path / "out"), "--to", "pagnol"]) == 2
    assert "no checkpoint can be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "no such file or folder"),
        ("empty", "neither a run folder"),
        ("note.txt", "not a file of torch"),
    ],
)
def test_bad_source(source: str, message: str, tmp_path: Path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.txt").write_text("bonjour")
    assert main(["convert", str(tmp_path / source), str(tmp_path / "out"), "--to", "pagnol"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("pagnol: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_existing_destination(source: Path, capsys):
    assert main(["convert", str(source), str(source), "--to", "huggingface"]) == 2
    assert "exists already" in capsys.readouterr().err


def test_another_tokenizer_is_not_overwritten(source: Path, tmp_path: Path, capsys):
    (tmp_path / "tokenizer.json").write_text("another")
    assert main(["convert", str(source), str(tmp_path / "pagnol.pt"), "--to", "lairgpt"]) == 2
    assert "another tokenizer" in capsys.readouterr().err
    assert (tmp_path / "tokenizer.json").read_text() == "another"
    assert not (tmp_path / "pagnol.pt").exists()


def test_inexpressible(tmp_path: Path, capsys):
    config = GPTConfig(13, 1, 24, 3, position=positions.rotary())
    store.save(tmp_path / "xl", config, random_params(config))
    assert main(["convert", str(tmp_path / "xl"), str(tmp_path / "xl.pt"), "--to", "lairgpt"]) == 2
    assert "LairGPT cannot express this model: it needs learned positions" in capsys.readouterr().err


def test_parser_stands_alone():
    parser = argparse.ArgumentParser()
    convert.add_parser(parser.add_subparsers())
    args = parser.parse_args(["convert", "a", "b", "--to", "lairgpt"])
    assert (args.source, args.dest, args.num_heads) == (Path("a"), Path("b"), None)
