import json

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from pagnol_jax.data.bpe import train_bpe
from pagnol_jax.data.vocabulary import PAGNOL_VOCAB_SIZE, SPECIALS, Tokenizer, normalise
from pagnol_jax.errors import UserError

TEXT = [
    "Il était une fois, dans un pays lointain, une fée.\nElle vivait seule dans la forêt.",
    "La forêt était grande ; la fée était petite. Il était une fois encore…",
] * 3


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(TEXT, 300)


def test_layout_is_specials_then_bytes_then_merges(tokenizer):
    inner = json.loads(tokenizer._inner.to_str())
    names = sorted(inner["model"]["vocab"], key=inner["model"]["vocab"].get)
    assert tuple(names[:6]) == SPECIALS
    assert all(len(name) == 1 for name in names[6:262])
    assert len(inner["model"]["merges"]) == 300 - 262
    assert sorted(tokenizer.token_bytes[6:262]) == [bytes([byte]) for byte in range(256)]
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.sep_id) == (0, 1, 2)


def test_pagnol_size():
    assert PAGNOL_VOCAB_SIZE == 50_262


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_round_trip_of_any_text(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([*SPECIALS, " ", "\n", "\r\n", "  fée", "é", "\x85", "\u2028", ""]), max_size=8))
def test_special_names_in_text_stay_text(tokenizer, pieces):
    text = "".join(pieces)
    ids = tokenizer.encode(text)
    assert set(ids) & set(range(6)) <= {tokenizer.eos_id}
    assert ids.count(tokenizer.eos_id) == text.count("\n")
    assert tokenizer.decode(ids) == text


def test_special_ids_become_names_or_vanish(tokenizer):
    document = tokenizer.encode_documents(["une fée\nla forêt"])[0]
    assert document[-1] == tokenizer.sep_id
    assert tokenizer.decode(document) == "une fée\nla forêt"
    assert tokenizer.decode(document, skip_special=False) == "une fée<EOS>la forêt<SEP>"


def test_batch_is_one_by_one(tokenizer):
    texts = ["", "une", "une\n\nfée\n", "\n"]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_ids_are_those_of_hugging_face(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    peer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ["Il était une fois", "fée 12 : l'été, c'est «\u00a0oui\u00a0» 🙂", "x" * 50]:
        assert peer.encode(text).ids == tokenizer.encode(text)
        assert peer.decode(tokenizer.encode(text)) == " " + text
    assert peer.encode("une<EOS>fée<SEP>").ids == tokenizer.encode_documents(["une\nfée"])[0]


def test_broken_utf8_and_unknown_ids_are_replaced(tokenizer):
    lead = tokenizer.token_bytes.index(b"\xf0")
    assert tokenizer.decode([lead]) == "\ufffd"
    assert tokenizer.decode([tokenizer.vocab_size + 5]) == "\ufffd"


def test_fingerprint_survives_a_file_and_sees_a_change(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "a.json")
    assert Tokenizer.load(tmp_path / "a.json").fingerprint == tokenizer.fingerprint
    assert train_bpe(TEXT, 299).fingerprint != tokenizer.fingerprint
    assert train_bpe(TEXT, 300).fingerprint == tokenizer.fingerprint


def test_normalise():
    assert normalise("a \r\n\r\n  b\t\rc\n\n") == "a\n  b\nc"
    assert normalise("a\u2028b\x85c") == "a\u2028b\x85c"
    assert normalise(" \n\t\n") == ""


def test_errors_in_one_line(tmp_path):
    with pytest.raises(UserError, match="below 262"):
        train_bpe(TEXT, 200)
    with pytest.raises(UserError, match=r"gives only \d+"):
        train_bpe(TEXT, PAGNOL_VOCAB_SIZE)
    with pytest.raises(UserError, match="cannot read the tokenizer"):
        Tokenizer.load(tmp_path / "none.json")
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    with pytest.raises(UserError, match=r"bad\.json: not a tokenizer file"):
        Tokenizer.load(bad)
    bad.write_text(tokenizers.Tokenizer(tokenizers.models.BPE()).to_str())
    with pytest.raises(UserError, match="not a byte-level BPE"):
        Tokenizer.load(bad)
