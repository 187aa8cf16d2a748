"""PAGnol's byte-level BPE: 6 special tokens, 256 bytes, then merges (Launay et al. 2022, section 3).

Needs only `tokenizers`: neither seqio, TensorFlow nor JAX. The file is a plain Hugging Face
`tokenizers` JSON, the format LairGPT reads.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from pagnol_jax.data.disk import write_whole
from pagnol_jax.errors import UserError

PAD, EOS, SEP, BOS, CLS, MASK = SPECIALS = ("<PAD>", "<EOS>", "<SEP>", "<BOS>", "<CLS>", "<MASK>")
NUM_BYTES = 256
PAGNOL_VOCAB_SIZE = len(SPECIALS) + NUM_BYTES + 50_000  # 50,262


def normalise(text: str) -> str:
    """The text a document is trained on: its paragraphs, one a line.

    A paragraph is a line (CCNet's convention): the text is cut at LF, CR LF and CR alone, white space at
    the end of a line is dropped (indentation is kept), and empty lines vanish.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join(line for line in map(str.rstrip, lines) if line)


class Tokenizer:
    """Text to token ids and back.

    A newline becomes `<EOS>`, and each paragraph (the text between newlines) is encoded with one space
    put in front, as PAGnol does; `decode` undoes exactly that, so `decode(encode(text)) == text` for every
    string of Unicode scalar values. The name of a special token standing in the text is plain text.
    """

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        """Wraps a byte-level BPE; raises UserError where `<PAD>`, `<EOS>` or `<SEP>` is missing."""
        inner.encode_special_tokens = True  # "<EOS>" in raw text stays text
        self._inner = inner
        self.special_ids = {name: id for name in SPECIALS if (id := inner.token_to_id(name)) is not None}
        missing = [name for name in (PAD, EOS, SEP) if name not in self.special_ids]
        if missing:
            raise UserError(f"the tokenizer has no {' and no '.join(missing)} token")
        self.pad_id, self.eos_id, self.sep_id = (self.special_ids[name] for name in (PAD, EOS, SEP))
        self.vocab_size: int = inner.get_vocab_size()

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Reads a `tokenizers` JSON file; raises UserError where it is missing or no byte-level BPE."""
        try:
            inner = tokenizers.Tokenizer.from_str(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path}: cannot read the tokenizer: {error.strerror}") from None
        except Exception as error:
            raise UserError(f"{path}: not a tokenizer file: {_first_line(error)}") from None
        if not set(pre_tokenizers.ByteLevel.alphabet()) <= set(inner.get_vocab()):
            raise UserError(f"{path}: not a byte-level BPE: its vocabulary lacks some of the 256 bytes")
        try:
            return cls(inner)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def save(self, path: str | Path) -> None:
        """Writes the `tokenizers` JSON file, atomically."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, self._inner.to_str(pretty=True))

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hex digits of the vocabulary and merges: two tokenizers that encode alike share it."""
        model = json.loads(self._inner.to_str())["model"]
        merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        content = [sorted(self._inner.get_vocab().items()), merges]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def encode(self, text: str) -> list[int]:
        """Token ids of one text; the empty text has none."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many texts, several times faster than one by one."""
        paragraphs = [text.split("\n") for text in texts]
        spaced = [" " + paragraph for text in paragraphs for paragraph in text if paragraph]
        encodings = iter(self._inner.encode_batch_fast(spaced, add_special_tokens=False))
        return [self._join(text, encodings) for text in paragraphs]

    def _join(self, paragraphs: list[str], encodings: Iterable[Any]) -> list[int]:
        ids: list[int] = []
        for index, paragraph in enumerate(paragraphs):
            if index:
                ids.append(self.eos_id)
            if paragraph:
                ids.extend(next(encodings).ids)  # type: ignore[call-overload]
        return ids

    def encode_documents(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of normalised documents: paragraphs joined by `<EOS>`, `<SEP>` at the end."""
        return [[*ids, self.sep_id] for ids in self.encode_batch(texts)]

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of token ids: `<EOS>` is a newline, other special tokens vanish.

        With `skip_special=False` every special token shows as its name. Bytes that are no UTF-8, and ids
        past the vocabulary, become U+FFFD. To print a continuation, decode prompt and continuation
        together: the space in front of the first token given is taken as the added one.
        """
        specials = set(self.special_ids.values())
        pieces: list[bytes] = []
        fresh = True  # at the start of a paragraph
        for id in ids:
            if id in specials:
                newline = skip_special and id == self.eos_id
                pieces.append(b"\n" if newline else b"" if skip_special else self.token_bytes[id])
                fresh = True
                continue
            piece = self.token_bytes[id] if 0 <= id < self.vocab_size else b"\xff"
            pieces.append(piece[1:] if fresh and piece[:1] == b" " else piece)
            fresh = False
        return b"".join(pieces).decode("utf-8", errors="replace")

    @functools.cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes each token stands for, by id; a special token stands for its name."""
        table = [b""] * self.vocab_size
        for token, id in self._inner.get_vocab().items():
            known = all(character in _BYTE_OF for character in token)
            plain = id in self.special_ids.values() or not known
            table[id] = token.encode() if plain else bytes(_BYTE_OF[character] for character in token)
        return table


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins: a printable Latin-1 byte is itself, the others follow from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(NUM_BYTES) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def blank_tokenizer() -> tokenizers.Tokenizer:
    """An untrained byte-level BPE that adds a prefix space."""
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)  # type: ignore[assignment]
    inner.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    return inner
