"""`PAGnol`: French text from a trained model, in three lines of Python."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tokenizers

from pagnol_jax.data.vocabulary import Tokenizer
from pagnol_jax.errors import UserError
from pagnol_jax.models import decode, sampling
from pagnol_jax.models.config import GPTConfig

STREAM_CHUNK = 8  # tokens between two looks at what was decoded


@dataclasses.dataclass(frozen=True)
class Options:
    """How to continue a prompt. The defaults are LairGPT's.

    mode: 'greedy', 'top_k' (a draw from the `k` most likely tokens) or 'nucleus' (from the most likely that
        make up probability `p`).
    max_tokens: new tokens at most; fewer where the text ends first.
    temperature: divides the logits before a draw.
    skip_eos: never end a paragraph, so that only the end of the document stops the text; if False the text
        stops at the end of the paragraph.
    repetition_penalty: above 1, makes tokens already read less likely (Keskar et al. 2019); 1 does nothing.
    no_repeat_ngram: never the same so many tokens in a row twice (Paulus et al. 2018); 0 does nothing.
    seed: of the draws; row b of a batch draws from `fold_in(key(seed), b)`.
    """

    mode: str = "nucleus"
    max_tokens: int = 32
    temperature: float = 1.0
    k: int = 5
    p: float = 0.9
    skip_eos: bool = True
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"no mode {self.mode!r}: choose from {', '.join(MODES)}")
        if self.max_tokens < 1:
            raise UserError(f"max_tokens must be 1 or more, not {self.max_tokens}")
        if not self.repetition_penalty > 0:
            raise UserError(f"repetition_penalty must be above 0, not {self.repetition_penalty}")
        if self.no_repeat_ngram < 0:
            raise UserError(f"no_repeat_ngram must be 0 or more, not {self.no_repeat_ngram}")

    def sampler(self, eos_id: int) -> sampling.Sampler:
        """The mode with its filters. Raises UserError for a k, p or temperature out of range."""
        filters: list[sampling.Filter] = []
        if self.repetition_penalty != 1:
            filters.append(sampling.RepetitionPenalty(self.repetition_penalty))
        if self.no_repeat_ngram:
            filters.append(sampling.NoRepeatNgram(self.no_repeat_ngram))
        if self.skip_eos:
            filters.append(sampling.Ban(jnp.array([eos_id])))
        return MODES[self.mode](self, filters)


MODES: dict[str, Callable[[Options, list[sampling.Filter]], sampling.Sampler]] = {
    "greedy": lambda o, filters: sampling.greedy(*filters),
    "top_k": lambda o, filters: sampling.top_k(o.k, o.temperature, *filters),
    "nucleus": lambda o, filters: sampling.nucleus(o.p, o.temperature, *filters),
}


class PAGnol:
    """A model that continues French text.

    >>> pagnol = PAGnol("runs/demo/xl")
    >>> pagnol("Salut PAGnol, comment ça va ?")
    >>> pagnol(["Paris est", "La mer"], mode="greedy", max_tokens=64)
    >>> for piece in pagnol.stream("Il était une fois"):
    ...     print(piece, end="", flush=True)

    Keywords are the fields of `Options`. A prompt opens a document, as in training (`<SEP>` goes before it);
    the empty prompt asks for any text. Spaces at its ends are dropped. What comes back is the continuation
    alone: `prompt + continuation` is the whole text.
    """

    def __init__(self, source: str | Path, tokenizer: str | Path | None = None) -> None:
        """`source`: a run folder, a model folder, a Hugging Face folder or a LairGPT file; `tokenizer`: a
        `tokenizers` JSON file in place of the one found there. Raises UserError for whatever does not fit."""
        config, params, self.tokenizer = load(source, tokenizer)
        self.weights = decode.unstack(config, params)

    def __call__(self, prompts: str | Sequence[str], **options: Any) -> Any:
        """The continuation of one prompt (str -> str), or those of several (list -> list), decoded together.

        Raises UserError where a prompt and `max_tokens` exceed the context.
        """
        if isinstance(prompts, str):
            return self([prompts], **options)[0]
        if not prompts:
            return []
        readers, chunks = self._decode(prompts, Options(**options), None)
        for tokens in chunks:
            for reader, row in zip(readers, tokens.tolist(), strict=True):
                reader.push(row)
        return [reader.text + reader.finish() for reader in readers]

    def stream(self, prompt: str, **options: Any) -> Iterator[str]:
        """Pieces of the continuation as they are decoded, never half a character; joined, they are what a
        call returns."""
        (reader,), chunks = self._decode([prompt], Options(**options), STREAM_CHUNK)
        for tokens in chunks:
            if piece := reader.push(tokens[0].tolist()):
                yield piece
        if piece := reader.finish():
            yield piece

    def _decode(
        self, prompts: Sequence[str], options: Options, chunk: int | None
    ) -> tuple[list["Detokenizer"], Iterator[Any]]:
        t = self.tokenizer
        encoded = [[t.sep_id, *t.encode(prompt.strip(" "))] for prompt in prompts]
        stop = (t.sep_id,) if options.skip_eos else (t.sep_id, t.eos_id)
        key = jax.random.key(options.seed)
        chunks = decode.generate(
            self.weights,
            encoded,
            options.sampler(t.eos_id),
            options.max_tokens,
            keys=jnp.stack([jax.random.fold_in(key, row) for row in range(len(encoded))]),
            ending=decode.Ending(stop, t.pad_id),
            chunk=chunk,
        )
        return [Detokenizer(t, ids, stop) for ids in encoded], chunks


class Detokenizer:
    """Text of one row of tokens as they come, up to the first `stop` token; whole characters only."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Iterable[int]) -> None:
        self.tokenizer, self.ids, self.stop = tokenizer, list(prompt), frozenset(stop)
        self.given = len(tokenizer.decode(self.ids))  # characters of the prompt
        self.text = ""  # what was handed out
        self.ended = False

    def push(self, ids: Iterable[int]) -> str:
        """What the tokens add that no later token can change."""
        for id in ids:
            self.ended = self.ended or id in self.stop
            if not self.ended:
                self.ids.append(id)
        # Bytes at the end that are no UTF-8 yet show as U+FFFD; the next token may complete them.
        return self._hand_out(self.tokenizer.decode(self.ids).rstrip("\ufffd"))

    def finish(self) -> str:
        """What is left: bytes that never became a character, as U+FFFD."""
        return self._hand_out(self.tokenizer.decode(self.ids))

    def _hand_out(self, text: str) -> str:
        piece = text[self.given + len(self.text) :]
        self.text += piece
        return piece


def load(source: str | Path, tokenizer: str | Path | None = None) -> tuple[GPTConfig, Any, Tokenizer]:
    """(configuration, parameters, tokenizer) of a run folder, or of whatever `pagnol convert` reads.

    Raises UserError where nothing is there, there is no tokenizer, or it is another model's.
    """
    source = Path(source)
    run = source / "run.json"
    if run.is_file():
        from pagnol_jax.train.load import load_run

        config, params, path = load_run(source)
        found = Tokenizer.load(tokenizer or path)
        trained = json.loads(run.read_text(encoding="utf-8"))["tokenizer"]["fingerprint"]
        if found.fingerprint != trained:
            raise UserError(f"{tokenizer or path} is not the tokenizer that {source} was trained with")
        return config, params, found
    from pagnol_jax.convert import formats

    config, params, text = formats.detect(source).read(source, None)
    if tokenizer is None and text is None:
        raise UserError(f"{source} has no tokenizer: name one")
    found = Tokenizer.load(tokenizer) if tokenizer else Tokenizer(tokenizers.Tokenizer.from_str(str(text)))
    if found.vocab_size != config.vocab_size:
        raise UserError(
            f"the tokenizer has {found.vocab_size:,} tokens, the model of {source} {config.vocab_size:,}: "
            "it is another model's"
        )
    return config, params, found


def newest_run(folder: Path = Path("runs")) -> Path:
    """The run under `folder` whose checkpoints were written last. Raises UserError if there is none."""
    runs = [path.parent for path in folder.rglob("run.json") if (path.parent / "checkpoints").is_dir()]
    if not runs:
        raise UserError(f"no model: there is no run under {folder}/; train one, or name a folder with --model")
    return max(runs, key=lambda run: (run / "checkpoints").stat().st_mtime)
