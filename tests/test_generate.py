"""`PAGnol` and `pagnol generate` on a small untrained model, whose text is noise but must be handled well."""

import dataclasses
import functools
import json

import flax.linen as nn
import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagnol_jax.cli.main import main
from pagnol_jax.data.bpe import train_bpe
from pagnol_jax.data.vocabulary import Tokenizer
from pagnol_jax.errors import UserError
from pagnol_jax.generate import Detokenizer, Options, PAGnol, newest_run
from pagnol_jax.models import gpt, positions, store
from pagnol_jax.models.config import GPTConfig

TEXT = ["Il était une fois, près d'un château, une fée âgée. « Où êtes-vous ? » dit-elle, émue. 🌲 Œuvre d'été."] * 3


@functools.cache
def tokenizer() -> Tokenizer:
    return train_bpe(TEXT, 280)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder; its large weights make sharp, varied choices."""
    path = tmp_path_factory.mktemp("model")
    config = GPTConfig(280, 2, 32, 4, max_length=96, position=positions.rotary(), init_stddev=0.4)
    params = nn.unbox(jax.jit(lambda key: gpt.init(config, key))(jax.random.key(0)))
    tokenizer().save(path / "tokenizer.json")
    store.save(path / "model", config, params, path / "tokenizer.json")
    return path / "model"


@pytest.fixture(scope="module")
def pagnol(folder):
    return PAGnol(folder)


def test_one_prompt_gives_text_and_a_list_gives_a_list(pagnol):
    text = pagnol("Il était une fois", mode="greedy")
    assert isinstance(text, str)
    texts = pagnol(["Il était une fois", "Une fée", ""], mode="greedy")
    assert len(texts) == 3
    assert texts[0] == text
    assert pagnol([" Il était une fois "], mode="greedy") == [text]
    assert pagnol([]) == []


@pytest.mark.parametrize("mode", ["greedy", "top_k", "nucleus"])
def test_stream_joins_to_the_call(pagnol, mode):
    pieces = list(pagnol.stream("Une fée", mode=mode, max_tokens=40, seed=3))
    assert len(pieces) > 1
    assert all(pieces)
    assert "".join(pieces) == pagnol("Une fée", mode=mode, max_tokens=40, seed=3)


def test_seed_and_temperature_matter(pagnol):
    options = {"mode": "nucleus", "temperature": 2.0}
    assert pagnol("Une fée", **options) == pagnol("Une fée", **options)
    assert pagnol("Une fée", **options) != pagnol("Une fée", seed=1, **options)


def test_repetition_control_changes_greedy_text(pagnol):
    plain = pagnol("Une fée", mode="greedy", max_tokens=60)
    assert pagnol("Une fée", mode="greedy", max_tokens=60, no_repeat_ngram=2) != plain
    assert pagnol("Une fée", mode="greedy", max_tokens=60, repetition_penalty=3.0) != plain


def ends_with(pagnol: PAGnol, id: int) -> PAGnol:
    """The same model with a constant, high logit for token `id`: LayerNorm without its bias sums to zero."""
    changed = object.__new__(PAGnol)
    params = pagnol.weights.params
    norm, head = params["final_norm"], params["head"]
    favour = {
        "final_norm": norm | {"bias": norm["bias"] + 1},
        "head": head.at[:, id].set(12 / head.shape[0]),
    }
    changed.tokenizer = pagnol.tokenizer
    changed.weights = dataclasses.replace(pagnol.weights, params=params | favour)
    return changed


def test_skip_eos_never_ends_a_paragraph(pagnol):
    eager = ends_with(pagnol, pagnol.tokenizer.eos_id)
    options = {"mode": "top_k", "k": 40, "temperature": 3.0, "max_tokens": 64}
    going, stopped = (eager("Une fée", skip_eos=skip, **options) for skip in (True, False))
    assert "\n" not in going + stopped
    assert len(stopped) < len(going)


def test_end_of_document_ends_the_text(pagnol):
    eager = ends_with(pagnol, pagnol.tokenizer.sep_id)
    text = eager("Une fée", mode="top_k", k=40, temperature=3.0, max_tokens=64)
    assert "<SEP>" not in text
    assert len(text.encode()) < 60


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(st.characters(codec="utf-8", exclude_characters="\ufffd"), max_size=30),
    size=st.integers(1, 4),
)
def test_pieces_are_whole_characters(text, size):
    t = tokenizer()
    prompt, ids = [t.sep_id, *t.encode("Une")], t.encode("Une" + text)[len(t.encode("Une")) :]
    if t.decode([*prompt, *ids]) != "Une" + text:
        return  # the text joined the prompt's last token
    reader = Detokenizer(t, prompt, [t.sep_id])
    pieces = [reader.push(ids[i : i + size]) for i in range(0, len(ids), size)]
    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces) == reader.text == text
    assert reader.finish() == ""


def test_half_a_character_at_the_very_end_is_told():
    t = tokenizer()
    reader = Detokenizer(t, [t.sep_id], [t.sep_id])
    first_byte = t.token_bytes.index("😀".encode()[:1])
    assert reader.push([*t.encode("Une"), first_byte, t.sep_id, 7]) == "Une"
    assert reader.finish() == "\ufffd"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"mode": "beam"}, "no mode 'beam': choose from greedy, top_k, nucleus"),
        ({"max_tokens": 0}, "max_tokens must be 1 or more"),
        ({"max_tokens": 96}, "exceed the model's context of 96"),
        ({"mode": "top_k", "k": 0}, "k must be 1 or more"),
        ({"repetition_penalty": 0}, "repetition_penalty must be above 0"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram must be 0 or more"),
    ],
)
def test_bad_options_are_told(pagnol, options, line):
    with pytest.raises(UserError, match=line):
        pagnol("Une fée", **options)


def test_other_tokenizers_are_refused(folder, tmp_path, monkeypatch):
    train_bpe(TEXT, 275).save(tmp_path / "small.json")
    with pytest.raises(UserError, match=r"275 tokens, the model of .* 280"):
        PAGnol(folder, tmp_path / "small.json")
    config, params, path = store.load(folder)
    monkeypatch.setattr("pagnol_jax.train.load.load_run", lambda source: (config, params, path))
    fingerprint = {"tokenizer": {"fingerprint": tokenizer().fingerprint}}
    (tmp_path / "run.json").write_text(json.dumps(fingerprint))
    assert PAGnol(tmp_path)("Une fée", mode="greedy") == PAGnol(folder)("Une fée", mode="greedy")
    train_bpe([TEXT[0] + "les bleus bleus bleus bleus", *TEXT], 280).save(tmp_path / "other.json")
    with pytest.raises(UserError, match=r"other.json is not the tokenizer that .* was trained with"):
        PAGnol(tmp_path, tmp_path / "other.json")


def test_missing_model_or_tokenizer_is_told(folder, tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        PAGnol(tmp_path / "nowhere")
    store.save(tmp_path / "mute", *store.load(folder)[:2])
    with pytest.raises(UserError, match="mute has no tokenizer"):
        PAGnol(tmp_path / "mute")
    with pytest.raises(UserError, match="no model: there is no run"):
        newest_run(tmp_path)


def test_newest_run_is_the_one_saved_last(tmp_path):
    import os

    for age, name in enumerate(["ladder/xs", "ladder/s"]):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "run.json").write_text("{}")
        os.utime(tmp_path / name / "checkpoints", (1000 - age, 1000 - age))
    assert newest_run(tmp_path) == tmp_path / "ladder/xs"


def test_command(folder, tmp_path, capsys):
    assert main(["generate", "Une fée ", "--model", str(folder), "--mode", "greedy"]) == 0
    alone = capsys.readouterr().out
    assert alone.startswith("Une fée")
    assert alone.endswith("\n")
    (tmp_path / "prompts.txt").write_text("Il était\n\nUne forêt\n")
    arguments = ["generate", "Une fée", "--file", str(tmp_path / "prompts.txt"), "--model", str(folder)]
    assert main([*arguments, "--mode", "greedy"]) == 0
    several = capsys.readouterr().out
    assert alone.rstrip("\n") in several
    assert "\nIl était" in several
    assert "\nUne forêt" in several


def test_command_errors_are_one_line(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, line in [
        (["Une fée"], "no model: there is no run under runs/"),
        ([], "no prompt"),
        (["--file", "absent.txt"], "absent.txt: cannot be read"),
        (["Une fée " * 90, "--model", str(folder)], "exceed the model's context of 96"),
        (["Une fée", "--mode", "beam"], "no mode 'beam'"),
    ]:
        assert main(["generate", *arguments]) == 2
        captured = capsys.readouterr()
        assert line in captured.err
        assert captured.err.count("\n") == 1
        assert not captured.out


def test_options_are_the_command_line_defaults():
    import argparse

    from pagnol_jax.cli import generate

    parser = argparse.ArgumentParser()
    generate.add_parser(parser.add_subparsers())
    parsed = vars(parser.parse_args(["generate"]))
    assert all(parsed[field.name] == field.default for field in dataclasses.fields(Options))
