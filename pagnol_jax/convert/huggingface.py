"""Hugging Face folders: `config.json` and safetensors <-> a configuration and parameters.

Neither torch nor transformers is needed, but to read a folder that has only `pytorch_model.bin`.
"""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from pagnol_jax.convert import table, tensors, tokenizer
from pagnol_jax.convert.architecture import Architecture, Fields
from pagnol_jax.convert.bloom import BLOOM
from pagnol_jax.convert.falcon import FALCON
from pagnol_jax.convert.gpt2 import GPT2
from pagnol_jax.convert.gpt_neox import GPT_NEOX
from pagnol_jax.errors import UserError
from pagnol_jax.models import positions, store
from pagnol_jax.models.config import GPTConfig

ARCHITECTURES = (GPT2, GPT_NEOX, BLOOM, FALCON)
HEADS = {arch.head for arch in ARCHITECTURES}


def read(folder: str | Path) -> tuple[GPTConfig, store.Params, str | None]:
    """(configuration, parameters, text of our tokenizer file or None).

    Raises UserError where a file is missing or corrupt, or the model is none that ours can express.
    """
    folder = Path(folder)
    fields = store.read_json(folder / "config.json")
    arch = _architecture_named(fields.get("model_type"), folder)
    try:
        config = _read_config(arch, fields)
        params = table.to_ours(arch.rows(config), _parameters(arch, tensors.read_folder(folder), config), config)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from error
    text = folder / "tokenizer.json"
    return config, params, tokenizer.from_huggingface(text.read_text("utf-8")) if text.exists() else None


def write(folder: str | Path, config: GPTConfig, params: store.Params, tokenizer_text: str | None = None) -> str:
    """Writes a folder that `AutoModelForCausalLM` and `AutoTokenizer` open; returns the name of the class.

    Raises UserError where no architecture computes this model, or the tokenizer has more tokens than it.
    """
    arch, equal = choose(config)
    flat = store.flatten(params)
    dtype = flat["token_embedding/embedding"].dtype
    flat |= {k: np.zeros(s, dtype) for k, s in store.shapes(equal).items() if k not in flat}
    weights = table.to_theirs(arch.rows(equal), store.unflatten(flat), equal)
    marks = _marks(config, tokenizer_text)
    with store.new_folder(folder) as unfinished:
        _write_json(unfinished / "config.json", _config_fields(arch, equal, dtype.name) | marks)
        _write_json(unfinished / "generation_config.json", marks)
        save_file(weights, unfinished / "model.safetensors", metadata={"format": "pt"})
        if tokenizer_text is not None:
            _write_tokenizer(unfinished, config, tokenizer_text)
    return arch.name


def choose(config: GPTConfig) -> tuple[Architecture, GPTConfig]:
    """The first architecture that computes this model, and the configuration it has there: biases that the
    model lacks are zeros, and so are the learned positions of a model without positions.

    Raises UserError with what each architecture would need.
    """
    for equal in _equals(config):
        for arch in ARCHITECTURES:
            if not _lacks(arch, equal):
                return arch, equal
    reasons = "; ".join(f"{a.name} needs {_lacks(a, equal)[0]}" for a in ARCHITECTURES)
    raise UserError(f"no Hugging Face architecture known here computes this model: {reasons}")


def _equals(config: GPTConfig) -> Iterator[GPTConfig]:
    yield config
    config = dataclasses.replace(config, use_bias=True, attention_bias=None, norm_bias=True)
    yield config
    if config.position == positions.none():
        yield dataclasses.replace(config, position=positions.learned())


def _lacks(arch: Architecture, config: GPTConfig) -> list[str]:
    return [reason for reason, met in arch.needs if not met(config)]


def _architecture_named(model_type: object, folder: Path) -> Architecture:
    for arch in ARCHITECTURES:
        if arch.model_type == model_type:
            return arch
    known = ", ".join(arch.model_type for arch in ARCHITECTURES)
    raise UserError(f"{folder}: config.json has model_type {model_type!r}, known are {known}")


def _read_config(arch: Architecture, fields: Fields) -> GPTConfig:
    dtype = fields.get("dtype") or fields.get("torch_dtype")
    try:
        config = arch.read(fields)
        # Sizes that follow from others are left to them, so that what we wrote is read as it was.
        default_width = config.activation.width(config.d_model)
        return dataclasses.replace(
            config,
            d_ff=None if config.d_ff == default_width else config.d_ff,
            num_kv_heads=None if config.num_kv_heads == config.num_heads else config.num_kv_heads,
            tie_embeddings=bool(fields.get("tie_word_embeddings", arch.tied_by_default)),
            init_stddev=fields.get("initializer_range", 0.02),
            dtype="bfloat16" if dtype == "bfloat16" else "float32",
        )
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"config.json describes no model: {error}") from error


def _parameters(arch: Architecture, found: store.Flat, config: GPTConfig) -> store.Flat:
    """Full names, without the buffers and without the copy that some files keep of a tied head."""
    named: store.Flat = {}
    for name, tensor in found.items():
        if re.search(arch.buffers, name):
            continue
        if name in HEADS:
            named |= {} if config.tie_embeddings else {arch.head: tensor}
        else:
            named[name if name.startswith(arch.prefix) else arch.prefix + name] = tensor
    return named


def _config_fields(arch: Architecture, config: GPTConfig, dtype: str) -> Fields:
    return {
        "architectures": [arch.name],
        "model_type": arch.model_type,
        "vocab_size": config.vocab_size,
        **arch.write(config),
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.init_stddev,
        "use_cache": True,
        "dtype": dtype,
    }


def _marks(config: GPTConfig, tokenizer_text: str | None) -> Fields:
    """A document ends with `<SEP>`, and the next one starts after it."""
    if tokenizer_text is None:
        return {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    marks = tokenizer.specials(tokenizer_text)
    if marks.vocab_size > config.vocab_size:
        raise UserError(f"the tokenizer has {marks.vocab_size} tokens, the model {config.vocab_size}")
    return {"bos_token_id": marks.end, "eos_token_id": marks.end, "pad_token_id": marks.pad}


def _write_tokenizer(folder: Path, config: GPTConfig, text: str) -> None:
    (folder / "tokenizer.json").write_text(tokenizer.to_huggingface(text), encoding="utf-8")
    marks = tokenizer.specials(text)
    fields: Fields = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.max_length,
        "clean_up_tokenization_spaces": False,
    }
    if marks.pad is not None:
        fields["pad_token"] = tokenizer.PAD
    if marks.end is not None:
        fields["eos_token"] = tokenizer.DOCUMENT
    _write_json(folder / "tokenizer_config.json", fields)


def _write_json(path: Path, fields: Fields) -> None:
    path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
