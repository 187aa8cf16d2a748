"""A mixture is a value: corpora, the rate of each, and how to get the tokenizer.

It is what `pagnol data build` and `pagnol train` take from gin (`gin/data/*.gin`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

from pagnol_jax.data.bpe import train_bpe
from pagnol_jax.data.corpora import Corpus, held_out
from pagnol_jax.data.readers import Shard
from pagnol_jax.data.store import FORMAT
from pagnol_jax.data.vocabulary import Tokenizer, normalise
from pagnol_jax.errors import UserError


class TokenizerRecipe(NamedTuple):
    """How to get a tokenizer. `make` takes training texts, which it reads only if `needs_text`; `vocab_size` says,
    without any text, how many ids there will be."""

    definition: str
    make: Callable[[Iterable[str]], Tokenizer]
    needs_text: bool
    vocab_size: Callable[[], int]


class Mixture(NamedTuple):
    """Corpora to draw from.

    name: names the folder of its cache. corpora: by name. rates: the share of training windows each
      corpus gives, up to a common factor; the tokens are cached once whatever the rates. tokenizer: a
      recipe. validation: corpora to validate on, under the names they have in `corpora`; a corpus without
      one holds out `holdout` of its documents, chosen by hash.
    """

    name: str
    corpora: Mapping[str, Corpus]
    rates: Mapping[str, float]
    tokenizer: TokenizerRecipe
    validation: Mapping[str, Corpus] = {}
    holdout: float = 0.01


def trained_bpe(vocab_size: int) -> TokenizerRecipe:
    """A byte-level BPE trained on the mixture's own training documents."""
    make = partial(train_bpe, vocab_size=vocab_size)
    return TokenizerRecipe(f"trained_bpe({vocab_size})", make, True, partial(int, vocab_size))


def tokenizer_file(path: str) -> TokenizerRecipe:
    """A tokenizer made before (`pagnol tokenizer train`); `path` may hold `$VARS`."""
    return TokenizerRecipe(f"tokenizer_file({path!r})", partial(_load, path), False, partial(_size, path))


def _load(path: str, texts: Iterable[str]) -> Tokenizer:
    return Tokenizer.load(os.path.expanduser(os.path.expandvars(path)))


def _size(path: str) -> int:
    return _load(path, ()).vocab_size


def split_corpus(mixture: Mixture, name: str, split: str) -> Corpus:
    """Where the split (`train` or `validation`) of a corpus is read from."""
    own = mixture.corpora[name]
    return mixture.validation.get(name, own) if split == "validation" else own


def split_texts(mixture: Mixture, name: str, split: str, shard: Shard) -> Iterator[str]:
    """The normalised, non-empty texts of a shard of `split_corpus` that belong to the split."""
    for document in split_corpus(mixture, name, split).read(shard):
        text = normalise(document.text)
        whole = name in mixture.validation
        if text and (whole or held_out(text, mixture.holdout) == (split == "validation")):
            yield text


def definition(mixture: Mixture) -> dict[str, object]:
    """All that decides the cached tokens, as plain data; the rates do not."""
    return {
        "format": FORMAT,
        "tokenizer": mixture.tokenizer.definition,
        "corpora": {name: corpus.definition for name, corpus in mixture.corpora.items()},
        "validation": {name: corpus.definition for name, corpus in mixture.validation.items()},
        "holdout": mixture.holdout,
    }


def folder_name(mixture: Mixture) -> str:
    """The name of the mixture's cache: another definition is another folder."""
    digest = hashlib.sha256(json.dumps(definition(mixture), sort_keys=True).encode()).hexdigest()
    return f"{mixture.name}-{digest[:8]}"


def check(mixture: Mixture) -> None:
    """Raises UserError for a mixture that cannot be meant."""
    where = f"mixture {mixture.name!r}"
    for name in (mixture.name, *mixture.corpora):
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise UserError(f"{where}: the name {name!r} may hold letters, digits, - and _ only")
    if set(mixture.rates) != set(mixture.corpora) or not mixture.corpora:
        names, rates = ", ".join(sorted(mixture.corpora)), ", ".join(sorted(mixture.rates))
        raise UserError(f"{where}: rates are given for [{rates}], corpora are [{names}]")
    if any(not rate > 0 for rate in mixture.rates.values()):
        raise UserError(f"{where}: every rate must be above 0; leave a corpus out instead")
    if unknown := set(mixture.validation) - set(mixture.corpora):
        raise UserError(f"{where}: validation of {', '.join(sorted(unknown))}, which is no corpus of it")
    if not 0 < mixture.holdout < 1:
        raise UserError(f"{where}: holdout {mixture.holdout} is no fraction between 0 and 1")
