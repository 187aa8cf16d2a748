"""The tokenizer as a `seqio.Vocabulary` (seqio 0.0.20 has none for Hugging Face files)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pagnol_jax.data.quiet_tensorflow import seqio, tf
from pagnol_jax.data.vocabulary import Tokenizer


class ByteLevelVocabulary(seqio.Vocabulary):  # type: ignore[misc]
    """`Tokenizer` behind seqio's interface. A document ends with `<SEP>`, so that is seqio's EOS."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        if tokenizer.pad_id != seqio.vocabularies.PAD_ID:
            raise ValueError(f"seqio wants <PAD> to be 0, this tokenizer has it at {tokenizer.pad_id}")
        self.tokenizer = tokenizer

    @property
    def bos_id(self) -> int | None:
        return self.tokenizer.special_ids.get("<BOS>")

    @property
    def eos_id(self) -> int:
        return self.tokenizer.sep_id

    @property
    def unk_id(self) -> None:
        return None  # every text can be written in bytes

    @property
    def _base_vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    def _encode(self, s: str) -> list[int]:
        return self.tokenizer.encode(s)

    def _decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids)

    def _encode_tf(self, s: Any) -> Any:
        """Ids of a scalar string tensor, int32 [T]."""
        ids = tf.numpy_function(self._encode_bytes, [s], tf.int32, stateful=False)
        ids.set_shape([None])
        return ids

    def _encode_bytes(self, text: bytes | np.ndarray) -> np.ndarray:
        # numpy_function passes a 0-d object array when eager, bytes within a graph.
        content = text.item() if isinstance(text, np.ndarray) else text
        return np.array(self.tokenizer.encode(content.decode()), np.int32)

    def _decode_tf(self, ids: Any) -> Any:
        """Strings of ids [..., T], as a string tensor [...]."""
        texts = tf.numpy_function(self._decode_rows, [ids], tf.string, stateful=False)
        texts.set_shape(ids.shape[:-1])
        return texts

    def _decode_rows(self, ids: np.ndarray) -> np.ndarray:
        rows = ids.reshape(-1, ids.shape[-1])
        texts = [self.tokenizer.decode(row.tolist()).encode() for row in rows]
        return np.array(texts, object).reshape(ids.shape[:-1])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ByteLevelVocabulary):
            return False
        return other.tokenizer.fingerprint == self.tokenizer.fingerprint

    __hash__ = None  # type: ignore[assignment]
