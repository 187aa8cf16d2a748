"""The tokenizer that `AutoTokenizer` opens gives the ids and the text of ours."""

import json
from pathlib import Path

import pytest
import transformers as hf
from convert.toy_models import random_params
from hypothesis import given, settings
from hypothesis import strategies as st

from pagnol_jax.convert import huggingface, tokenizer
from pagnol_jax.data.bpe import train_bpe
from pagnol_jax.data.vocabulary import Tokenizer
from pagnol_jax.errors import UserError
from pagnol_jax.models import positions
from pagnol_jax.models.config import GPTConfig

TEXT = "Bonjour le monde, comment ça va ?\nTrès bien, merci. Et le reste du monde ?\nAu revoir, le monde."


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_bpe([TEXT] * 3, 300).save(path)
    return path


@pytest.fixture(scope="module", params=[positions.learned(), positions.rotary()], ids=lambda p: p.name)
def theirs(request, ours: Path, tmp_path_factory):
    """(Tokenizer, what AutoTokenizer makes of an exported folder, the folder)."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    config = GPTConfig(304, 1, 8, 2, max_length=16, position=request.param)  # 4 rows of padding
    huggingface.write(folder, config, random_params(config), ours.read_text("utf-8"))
    return Tokenizer.load(ours), hf.AutoTokenizer.from_pretrained(folder), folder


TEXTS = [
    TEXT,
    "",
    " ",
    "\n",
    "\n\n",
    "a\n\n b\n",
    "  deux espaces",
    "Un\r\nretour",
    "tab\tulation",
    "œuvre 🎉 ½",
    "'l'été'",
]


@pytest.mark.parametrize("text", TEXTS)
def test_same_ids_and_text(theirs, text: str):
    tokenizer, auto, _ = theirs
    assert auto(text)["input_ids"] == tokenizer.encode(text)
    assert auto.decode(tokenizer.encode(text), skip_special_tokens=True) == text


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<"), max_size=20))
def test_same_ids_and_text_of_any_string(theirs, text: str):
    tokenizer, auto, _ = theirs
    assert auto(text)["input_ids"] == tokenizer.encode(text)
    assert auto.decode(tokenizer.encode(text), skip_special_tokens=True) == text


def test_special_tokens(theirs):
    tokenizer, auto, folder = theirs
    assert (auto.pad_token, auto.eos_token) == ("<PAD>", "<SEP>")
    assert (auto.pad_token_id, auto.eos_token_id) == (tokenizer.pad_id, tokenizer.sep_id)
    assert auto.decode([tokenizer.sep_id], skip_special_tokens=True) == ""
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["eos_token_id"] == tokenizer.sep_id
    assert generation["pad_token_id"] == tokenizer.pad_id
    batch = auto(["Bonjour", "Bonjour le monde"], padding=True)
    assert batch["input_ids"][0][-1] == tokenizer.pad_id
    assert batch["attention_mask"][0][-1] == 0


def test_our_file_comes_back(theirs, ours: Path):
    _, _, folder = theirs
    _, _, text = huggingface.read(folder)
    assert json.loads(text) == json.loads(ours.read_text("utf-8"))


def test_another_layout_is_left_alone(ours: Path):
    file = json.loads(ours.read_text("utf-8"))
    file["normalizer"] = {"type": "NFC"}
    text = json.dumps(file)
    assert tokenizer.to_huggingface(text) == text == tokenizer.from_huggingface(text)


def test_tokenizer_larger_than_the_model(ours: Path, tmp_path: Path):
    config = GPTConfig(299, 1, 8, 2)
    with pytest.raises(UserError, match="tokenizer has 300 tokens, the model 299"):
        huggingface.write(tmp_path / "model", config, random_params(config), ours.read_text("utf-8"))
    assert not (tmp_path / "model").exists()
