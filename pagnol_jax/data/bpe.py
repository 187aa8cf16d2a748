"""Training the byte-level BPE (Sennrich et al. 2016; Radford et al. 2019 for the byte level)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tokenizers import pre_tokenizers, trainers

from pagnol_jax.data.vocabulary import (
    NUM_BYTES,
    SPECIALS,
    Tokenizer,
    blank_tokenizer,
    normalise,
)
from pagnol_jax.errors import UserError

PARAGRAPHS_AT_ONCE = 1000


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A tokenizer of exactly `vocab_size` ids: 6 special tokens, 256 bytes, and merges, in that order.

    Merges never cross a paragraph, and a pair seen once is not merged. Raises UserError where
    `vocab_size` leaves no room for the bytes, or the text is too short to give that many merges.
    """
    smallest = len(SPECIALS) + NUM_BYTES
    if vocab_size < smallest:
        raise UserError(f"vocab_size {vocab_size} is below {smallest} (256 bytes and 6 special tokens)")
    inner = blank_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    inner.train_from_iterator(_paragraphs(texts), trainer)
    if inner.get_vocab_size() < vocab_size:
        merges = inner.get_vocab_size() - smallest
        raise UserError(
            f"vocab_size {vocab_size} asks for {vocab_size - smallest} merges, but this text gives only "
            f"{merges}: give more text or a vocab_size of at most {smallest + merges}"
        )
    return Tokenizer(inner)


def _paragraphs(texts: Iterable[str]) -> Iterator[list[str]]:
    """Lists of paragraphs, each with its prefix space, small enough to keep memory flat."""
    for text in texts:
        lines = [" " + line for line in normalise(text).split("\n") if line]
        for start in range(0, len(lines), PARAGRAPHS_AT_ONCE):
            yield lines[start : start + PARAGRAPHS_AT_ONCE]
