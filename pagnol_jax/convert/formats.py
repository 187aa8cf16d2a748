"""The formats that `pagnol convert` reads and writes, as values."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pagnol_jax.convert import huggingface, lairgpt, t5x
from pagnol_jax.errors import UserError
from pagnol_jax.models import store
from pagnol_jax.models.config import GPTConfig


class Weights(NamedTuple):
    """A model and the text of its tokenizer file, None where it has none."""

    config: GPTConfig
    params: store.Params
    tokenizer: str | None


class Format(NamedTuple):
    """`is_at` recognises a source; `read` takes it and the number of heads (or None); `write` returns what
    else there is to say."""

    title: str
    is_at: Callable[[Path], bool]
    read: Callable[[Path, int | None], Weights]
    write: Callable[[Path, Weights], str]


def detect(source: Path) -> Format:
    """Raises UserError where `source` is missing or in no known format."""
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    for format in FORMATS.values():
        if format.is_at(source):
            return format
    raise UserError(
        f"{source} is neither a run folder, nor a folder with {store.CONFIG} or config.json, nor a .pt file"
    )


def _read_pagnol(source: Path, num_heads: int | None) -> Weights:
    config, params, tokenizer = store.load(source)
    return Weights(config, params, tokenizer.read_text("utf-8") if tokenizer else None)


def _write_pagnol(dest: Path, weights: Weights) -> str:
    if weights.tokenizer is None:
        store.save(dest, weights.config, weights.params)
        return ""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = Path(folder, store.TOKENIZER)
        tokenizer.write_text(weights.tokenizer, encoding="utf-8")
        store.save(dest, weights.config, weights.params, tokenizer)
    return ""


def _read_huggingface(source: Path, num_heads: int | None) -> Weights:
    return Weights(*huggingface.read(source))


def _write_huggingface(dest: Path, weights: Weights) -> str:
    return huggingface.write(dest, *weights)


def _read_lairgpt(source: Path, num_heads: int | None) -> Weights:
    """The tokenizer is the `tokenizer.json` beside the file, if there is one."""
    tokenizer = source.with_name(store.TOKENIZER)
    text = tokenizer.read_text("utf-8") if tokenizer.exists() else None
    return Weights(*lairgpt.read(source, num_heads), text)


def _write_lairgpt(dest: Path, weights: Weights) -> str:
    """The tokenizer goes beside the file; another one that is there already is not overwritten."""
    tokenizer = dest.with_name(store.TOKENIZER)
    if weights.tokenizer is not None and tokenizer.exists() and tokenizer.read_text("utf-8") != weights.tokenizer:
        raise UserError(f"{tokenizer} is another tokenizer: write to another folder")
    lairgpt.write(dest, weights.config, weights.params)
    if weights.tokenizer is not None:
        tokenizer.write_text(weights.tokenizer, encoding="utf-8")
    return "state dictionary"


def _read_t5x(source: Path, num_heads: int | None) -> Weights:
    return Weights(*t5x.read(source))


def _write_t5x(dest: Path, weights: Weights) -> str:
    return t5x.write(dest, *weights)


FORMATS = {
    "pagnol": Format(
        "pagnol", lambda p: (p / store.CONFIG).is_file() and not t5x.is_at(p), _read_pagnol, _write_pagnol
    ),
    "huggingface": Format(
        "Hugging Face", lambda p: (p / "config.json").is_file(), _read_huggingface, _write_huggingface
    ),
    "lairgpt": Format("LairGPT", lambda p: p.is_file(), _read_lairgpt, _write_lairgpt),
    "t5x": Format("t5x", t5x.is_at, _read_t5x, _write_t5x),
}
