"""The tokenizer file in its two spellings: ours, and one that encodes alike under `transformers`.

Ours gives `<EOS>` for a newline and puts a space in front of each paragraph in Python (`data.vocabulary`).
`transformers` knows only the file, so there the paragraph mark is spelled as the newline that it stands for
and the space is a normaliser's work: `AutoTokenizer` then gives the same ids, and decodes to the same text.
"""

import json
from typing import Any, NamedTuple

PAD, PARAGRAPH, DOCUMENT, NEWLINE = "<PAD>", "<EOS>", "<SEP>", "\n"

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_PREFIX = {"type": "Prepend", "prepend": " "}
_DECODER = {
    "type": "Sequence",
    "decoders": [
        _BYTE_LEVEL,
        {"type": "Replace", "pattern": {"String": "\n "}, "content": "\n"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ],
}
_OUR_BYTE_LEVEL = {**_BYTE_LEVEL, "add_prefix_space": True}


class Specials(NamedTuple):
    """Ids of padding and of the end of a document, None where the tokenizer has no such token; its size."""

    pad: int | None
    end: int | None
    vocab_size: int


def specials(text: str) -> Specials:
    """What a model needs to know of a tokenizer file."""
    file = json.loads(text)
    ids = dict(file["model"]["vocab"]) | {token["content"]: token["id"] for token in file["added_tokens"]}
    return Specials(ids.get(PAD), ids.get(DOCUMENT), max(ids.values()) + 1)


def to_huggingface(text: str) -> str:
    """Our file -> theirs; a tokenizer of another layout is left as it is."""
    file = json.loads(text)
    byte_level = (file.get("pre_tokenizer") or {}).get("type") == "ByteLevel"
    if not (byte_level and PARAGRAPH in file["model"]["vocab"] and file["normalizer"] is None):
        return text
    _rename(file, PARAGRAPH, NEWLINE, special=False)
    file |= {"normalizer": _PREFIX, "pre_tokenizer": _BYTE_LEVEL, "decoder": _DECODER}
    return json.dumps(file, ensure_ascii=False, indent=2)


def from_huggingface(text: str) -> str:
    """Inverse of `to_huggingface`."""
    file = json.loads(text)
    if not (file["normalizer"] == _PREFIX and NEWLINE in file["model"]["vocab"]):
        return text
    _rename(file, NEWLINE, PARAGRAPH, special=True)
    file |= {"normalizer": None, "pre_tokenizer": _OUR_BYTE_LEVEL, "decoder": _OUR_BYTE_LEVEL}
    return json.dumps(file, ensure_ascii=False, indent=2)


def _rename(file: dict[str, Any], old: str, new: str, special: bool) -> None:
    vocab = file["model"]["vocab"]
    file["model"]["vocab"] = {new if token == old else token: id for token, id in vocab.items()}
    for token in file["added_tokens"]:
        if token["content"] == old:
            token.update(content=new, special=special)
