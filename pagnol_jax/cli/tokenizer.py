"""`pagnol tokenizer train`: a byte-level BPE from text."""

import argparse


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `tokenizer` with its command."""
    parser = subparsers.add_parser(
        "tokenizer", help="train a tokenizer", description="Byte-level BPE, PAGnol's layout."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train = commands.add_parser(
        "train",
        help="train a byte-level BPE",
        description="Trains a byte-level BPE (6 special tokens, 256 bytes, merges) on the training documents "
        "of files or of a mixture, those not held out, and writes a Hugging Face tokenizers JSON.",
        epilog="example: pagnol tokenizer train --corpus 'texts/*.jsonl' --vocab_size 8192 --output t.json",
    )
    source = train.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--corpus", metavar="PATTERN", help="files: .jsonl, .txt (each of them .zst or .gz too), .parquet"
    )
    source.add_argument("--gin_file", action="append", metavar="FILE", help="gin file of a mixture")
    train.add_argument("--vocab_size", type=int, required=True, help="256 + 6 + the number of merges (PAGnol: 50262)")
    train.add_argument("--output", required=True, metavar="FILE", help="where to write the tokenizer")
    train.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Trains, writes, and says what came out."""
    from tqdm import tqdm

    from pagnol_jax.cli.data import mixture_from_gin
    from pagnol_jax.data.bpe import train_bpe
    from pagnol_jax.data.cache import training_texts
    from pagnol_jax.data.corpora import files
    from pagnol_jax.data.mixture import Mixture, check, trained_bpe

    if args.gin_file:
        mixture = mixture_from_gin(args)
    else:
        mixture = Mixture("files", {"files": files(args.corpus)}, {"files": 1.0}, trained_bpe(args.vocab_size))
    check(mixture)
    with tqdm(desc="tokenizer: text", unit="B", unit_scale=True) as progress:
        tokenizer = train_bpe(training_texts(mixture, progress), args.vocab_size)
    tokenizer.save(args.output)
    merges = tokenizer.vocab_size - 256 - len(tokenizer.special_ids)
    size = f"{tokenizer.vocab_size:,} tokens ({merges:,} merges)"
    print(f"{args.output}: {size}, fingerprint {tokenizer.fingerprint}")
