"""The tokenizer file in its two spellings: ours, and one that encodes alike under `transformers`.

Ours gives `<EOS>` for a newline and puts a space in front of each paragraph in Python (`data.vocabulary`).
`transformers` knows only the file, so there the paragraph mark is spelled as the newline that it stands for
and the space is a normaliser's work: `AutoTokenizer` then gives the same ids, and decodes to the same text.
"""

import json
from typing import Any, NamedTuple

import tokenizers

from pagnol_jax.errors import UserError

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
    """What a model needs to know of a tokenizer file. Raises UserError where it is none."""
    try:
        ids = tokenizers.Tokenizer.from_str(text).get_vocab(with_added_tokens=True)
    except Exception as error:  # tokenizers raises bare Exception
        raise UserError(f"the tokenizer file is not one: {str(error).splitlines()[0]}") from error
    return Specials(ids.get(PAD), ids.get(DOCUMENT), max(ids.values(), default=-1) + 1)


def to_huggingface(text: str) -> str:
    """Our file -> theirs; another layout is left as it is. Raises UserError for no JSON object."""
    file = _parse(text)
    byte_level = (file.get("pre_tokenizer") or {}).get("type") == "ByteLevel"
    if not (byte_level and PARAGRAPH in _vocab(file) and file.get("normalizer") is None):
        return text
    _rename(file, PARAGRAPH, NEWLINE, special=False)
    file |= {"normalizer": _PREFIX, "pre_tokenizer": _BYTE_LEVEL, "decoder": _DECODER}
    return json.dumps(file, ensure_ascii=False, indent=2)


def from_huggingface(text: str) -> str:
    """Inverse of `to_huggingface`."""
    file = _parse(text)
    if not (file.get("normalizer") == _PREFIX and NEWLINE in _vocab(file)):
        return text
    _rename(file, NEWLINE, PARAGRAPH, special=True)
    file |= {"normalizer": None, "pre_tokenizer": _OUR_BYTE_LEVEL, "decoder": _OUR_BYTE_LEVEL}
    return json.dumps(file, ensure_ascii=False, indent=2)


def _parse(text: str) -> dict[str, Any]:
    try:
        file = json.loads(text)
    except ValueError as error:
        raise UserError(f"the tokenizer file is not JSON: {error}") from error
    if not isinstance(file, dict):
        raise UserError("the tokenizer file is not a JSON object")
    return file


def _vocab(file: dict[str, Any]) -> Any:
    return (file.get("model") or {}).get("vocab") or {}


def _rename(file: dict[str, Any], old: str, new: str, special: bool) -> None:
    vocab = file["model"]["vocab"]
    file["model"]["vocab"] = {new if token == old else token: id for token, id in vocab.items()}
    for token in file["added_tokens"]:
        if token["content"] == old:
            token.update(content=new, special=special)
