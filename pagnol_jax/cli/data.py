"""`pagnol data build` and `pagnol data info`: the token cache of a mixture."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pagnol_jax.cli import gin_files

if TYPE_CHECKING:  # imported when a command runs, so that `pagnol --help` stays quick
    from pagnol_jax.data.mixture import Mixture
    from pagnol_jax.data.store import Cache

BUILD_EXAMPLE = "example: pagnol data build --gin_file data/debian_fr.gin"
INFO_EXAMPLE = "example: pagnol data info --gin_file data/debian_fr.gin --verify"


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `data` with its commands."""
    parser = subparsers.add_parser(
        "data", help="build and describe token caches", description="Token caches of mixtures."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    build = commands.add_parser(
        "build",
        help="train the tokenizer and write the tokens of a mixture",
        description="Trains the tokenizer and writes the tokens of a mixture, in parallel. "
        "A build that was stopped goes on where it was.",
        epilog=BUILD_EXAMPLE,
    )
    build.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core)")
    build.add_argument("--overwrite", action="store_true", help="build anew what is there")
    build.set_defaults(run=run_build)
    info = commands.add_parser(
        "info",
        help="describe a built cache",
        description="Describes the built cache of a mixture.",
        epilog=INFO_EXAMPLE,
    )
    info.add_argument("--verify", action="store_true", help="read every file again and compare checksums")
    info.set_defaults(run=run_info)
    for command in (build, info):
        gin_files.add_arguments(command)
        command.add_argument("--cache_dir", metavar="DIR", help="default: $PAGNOL_CACHE, else ~/.cache/pagnol_jax")


def mixture_from_gin(args: argparse.Namespace) -> Mixture:
    """The mixture that the gin files and bindings of a command describe."""
    gin_files.parse(args.gin_file, args.gin_bindings)
    from pagnol_jax.data.mixture import Mixture

    mixture: Mixture = gin_files.call(Mixture)
    return mixture


def run_build(args: argparse.Namespace) -> None:
    """Builds, or opens what is built, and describes it."""
    from pagnol_jax.data.prepare import prepare

    mixture = mixture_from_gin(args)
    describe(prepare(mixture, args.cache_dir, args.workers, args.overwrite), mixture)


def run_info(args: argparse.Namespace) -> None:
    """Describes the cache without building it; --verify reads it all."""
    from pagnol_jax.data.prepare import open_built

    mixture = mixture_from_gin(args)
    cache = open_built(mixture, args.cache_dir)
    if args.verify:
        cache.verify()
    describe(cache, mixture)


def describe(cache: Cache, mixture: Mixture) -> None:
    """Prints what a cache holds, a line for each corpus and split."""
    from pagnol_jax.data.store import SPLITS

    print(cache.folder)
    print(f"{cache.vocab_size:,} tokens in the vocabulary, fingerprint {cache.tokenizer_fingerprint}")
    total = sum(mixture.rates.values())
    print(f"{'corpus':<24}{'split':<12}{'rate':>8}{'documents':>12}{'tokens':>16}{'bytes':>16}{'bytes/token':>13}")
    for corpus in cache.corpora:
        for split in SPLITS:
            size = cache.size(corpus, split)
            rate = f"{mixture.rates[corpus] / total:.4f}" if split == "train" else ""
            row = f"{corpus:<24}{split:<12}{rate:>8}{size.documents:>12,}{size.tokens:>16,}{size.bytes:>16,}"
            print(f"{row}{size.bytes / max(size.tokens, 1):>13.3f}")
