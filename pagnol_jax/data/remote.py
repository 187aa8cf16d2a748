"""Corpora of TensorFlow Datasets and of the Hugging Face Hub.

What these hold is fixed by version or revision: give it, in the name (`wiki40b/fr:1.3.0`) or as `revision`.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from pagnol_jax.data.corpora import Corpus
from pagnol_jax.data.readers import Document, Shard, checked_text, first_line
from pagnol_jax.errors import UserError


def tfds(name: str, split: str = "train", field: str = "text") -> Corpus:
    """A TFDS dataset, downloaded at the first build (to `TFDS_DATA_DIR`); a shard is one of its own."""
    return _tfds(f"tfds({name!r}, {split!r}, field={field!r})", name, split, field, _as_it_is)


def wiki40b(name: str = "wiki40b/fr:1.3.0", split: str = "train") -> Corpus:
    """A language of Wiki-40B (Guo et al. 2020), its markers turned into paragraphs."""
    return _tfds(f"wiki40b({name!r}, {split!r})", name, split, "text", wiki40b_text)


def hub(
    name: str,
    config: str | None = None,
    split: str = "train",
    *,
    field: str = "text",
    revision: str | None = None,
    max_documents: int | None = None,
) -> Corpus:
    """A Hub dataset, streamed; at most `max_documents`, taken evenly from its files."""
    options = f"{split!r}, field={field!r}, revision={revision!r}, max_documents={max_documents}"
    definition = f"hub({name!r}, {config!r}, {options})"
    stream = partial(_hub_stream, name, config, split, revision)
    read = partial(_read_hub, stream, field, max_documents)
    return Corpus(definition, partial(_hub_shards, stream, name), read, partial(_digest, definition))


def wiki40b_text(text: str) -> str:
    """Wiki-40B's text, without its markers: title, headings and paragraphs are lines."""
    return re.sub(r"\s*_(?:START_[A-Z]+|NEWLINE)_\s*", "\n", text).strip()


def _digest(definition: str) -> str:
    return hashlib.blake2b(definition.encode(), digest_size=8).hexdigest()


def _as_it_is(text: str) -> str:
    return text


def _tfds(definition: str, name: str, split: str, field: str, clean: Callable[[str], str]) -> Corpus:
    shards, read = partial(_tfds_shards, name, split), partial(_read_tfds, name, split, field, clean)
    return Corpus(definition, shards, read, partial(_digest, definition))


def _tfds_builder(name: str) -> Any:
    from pagnol_jax.data import quiet_tensorflow  # noqa: F401 - before TFDS imports TensorFlow itself

    try:
        import tensorflow_datasets
    except ImportError as error:
        raise UserError(f"{name}: TFDS is not installed ({error}): pip install 'pagnol_jax[data]'") from None
    try:
        builder = tensorflow_datasets.builder(name)
        builder.download_and_prepare()
    except Exception as error:
        raise UserError(f"tfds {name!r}: {first_line(error)}") from None
    return builder


def _tfds_shards(name: str, split: str) -> list[Shard]:
    splits = _tfds_builder(name).info.splits
    if splits and split not in splits:
        raise UserError(f"tfds {name!r}: no split {split!r}; it has {', '.join(splits)}")
    parts = max(1, splits[split].num_shards) if splits else 1  # mocked data sets know no splits
    return [Shard(split, part, parts) for part in range(parts)]


def _read_tfds(name: str, split: str, field: str, clean: Callable[[str], str], shard: Shard) -> Iterator[Document]:
    import tensorflow_datasets

    builder = _tfds_builder(name)
    part = f"{split}[{shard.part}shard:{shard.part + 1}shard]" if shard.parts > 1 else split
    dataset = tensorflow_datasets.as_numpy(builder.as_dataset(split=part, shuffle_files=False))
    for index, record in enumerate(dataset):
        place = f"{name}/{split}:{shard.part}:{index}"
        raw = record.get(field)
        try:
            text = raw.decode() if isinstance(raw, bytes) else raw
        except UnicodeDecodeError as error:
            raise UserError(f"{place}: not UTF-8: {error.reason} at byte {error.start}") from None
        yield Document(clean(checked_text(text, place, field)), place)


def _hub_stream(name: str, config: str | None, split: str, revision: str | None) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UserError(f"{name}: datasets is not installed ({error}): pip install 'pagnol_jax[data]'") from None
    try:
        return datasets.load_dataset(name, config, split=split, revision=revision, streaming=True)
    except Exception as error:
        raise UserError(f"hub {name!r}: {first_line(error)}") from None


def _hub_shards(stream: Callable[[], Any], name: str) -> list[Shard]:
    parts = stream().num_shards
    return [Shard(name, part, parts) for part in range(parts)]


def _read_hub(stream: Callable[[], Any], field: str, max_documents: int | None, shard: Shard) -> Iterator[Document]:
    limit = None if max_documents is None else len(range(shard.part, max_documents, shard.parts))
    records = iter(stream().shard(num_shards=shard.parts, index=shard.part))
    for index in itertools.count():
        if index == limit:
            return
        place = f"{shard.path}:{shard.part}:{index}"
        try:
            record = next(records, None)
        except Exception as error:
            raise UserError(f"{place}: {first_line(error)}") from None
        if record is None:
            return
        yield Document(checked_text(record.get(field), place, field), place)
