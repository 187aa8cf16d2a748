"""`pagnol generate`: text from a trained model, printed as it is decoded."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pagnol_jax.errors import UserError

BATCH = 8  # prompts decoded together


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `generate`."""
    parser = subparsers.add_parser(
        "generate",
        help="continue French text with a trained model",
        description="Continues each prompt with a trained model. One prompt is printed while it is decoded, "
        "several are decoded together.",
        epilog='example: pagnol generate "Salut PAGnol, comment ça va ?" --mode top_k --max_tokens 64',
    )
    add = parser.add_argument
    add(
        "prompts",
        nargs="*",
        metavar="PROMPT",
        help='text to continue; "" asks for any text',
    )
    add("--file", type=Path, help="also continue every line of this file")
    add(
        "--model",
        type=Path,
        metavar="DIR",
        help="run, model or Hugging Face folder (default: newest run in runs/)",
    )
    add(
        "--tokenizer",
        type=Path,
        metavar="FILE",
        help="tokenizer JSON, where the model has none",
    )
    add("--mode", default="nucleus", help="greedy, top_k or nucleus (default: nucleus)")
    add(
        "--max_tokens",
        type=int,
        default=32,
        metavar="N",
        help="new tokens at most (default: 32)",
    )
    add(
        "--temperature",
        type=float,
        default=1.0,
        help="below 1 more likely text, above 1 more varied (default: 1)",
    )
    add(
        "--k",
        type=int,
        default=5,
        help="tokens that mode top_k draws from (default: 5)",
    )
    add(
        "--p",
        type=float,
        default=0.9,
        help="probability that mode nucleus draws from (default: 0.9)",
    )
    add(
        "--skip_eos",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="never end a paragraph (default: yes)",
    )
    add(
        "--repetition_penalty",
        type=float,
        default=1.0,
        metavar="X",
        help="above 1 against repetition (default: 1)",
    )
    add(
        "--no_repeat_ngram",
        type=int,
        default=0,
        metavar="N",
        help="never N tokens in a row twice (default: off)",
    )
    add("--seed", type=int, default=0, help="of the draws (default: 0)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Prints each prompt with its continuation."""
    prompts = [*args.prompts, *_lines(args.file)]
    if not prompts:
        raise UserError('no prompt: give one, as in pagnol generate "Il était une fois"')
    from pagnol_jax.generate import Options, PAGnol, newest_run

    names = (
        "mode",
        "max_tokens",
        "temperature",
        "k",
        "p",
        "skip_eos",
        "repetition_penalty",
        "no_repeat_ngram",
        "seed",
    )
    options = {name: getattr(args, name) for name in names}
    Options(**options)  # tells of a bad one before a model is read
    model = args.model or newest_run()
    if not args.model:
        print(f"pagnol: model {model}", file=sys.stderr)
    pagnol = PAGnol(model, args.tokenizer)
    if len(prompts) == 1:
        _stream(pagnol.stream(prompts[0], **options), prompts[0])
        return
    for first in range(0, len(prompts), BATCH):
        batch = prompts[first : first + BATCH]
        options["seed"] = args.seed + first  # rows of two batches must not draw alike
        for prompt, text in zip(batch, pagnol(batch, **options), strict=True):
            print(f"{prompt.strip(' ')}{text}\n", flush=True)


def _stream(pieces, prompt: str) -> None:
    """Prints the prompt once the first piece is there, so that an error stands alone."""
    lead = prompt.strip(" ")
    for piece in pieces:
        print(lead + piece, end="", flush=True)
        lead = ""
    print(lead)


def _lines(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from error
