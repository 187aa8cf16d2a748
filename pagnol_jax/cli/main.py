"""`pagnol`: one command, a module per subcommand. Heavy imports wait until a subcommand runs."""

import argparse
import importlib
import sys

from pagnol_jax import __version__
from pagnol_jax.errors import Stopped, UserError

COMMANDS = ("tokenizer", "data", "train", "ladder", "scaling", "generate", "convert", "tpu", "dfa")


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="pagnol",
        description="French GPTs in JAX: from text to tokens, training, scaling laws and generation.",
        epilog="example: pagnol train --gin_file gin/runs/demo.gin --gin.TOTAL_STEPS=200",
    )
    top.add_argument("--version", action="version", version=f"pagnol_jax {__version__}")
    subparsers = top.add_subparsers(title="commands", metavar="command", required=True)
    for name in COMMANDS:
        importlib.import_module(f"pagnol_jax.cli.{name}").add_parser(subparsers)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Runs one command. Returns its exit status: 0 done, 2 bad input (one line on stderr), 128 + n for signal n."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # t5x-style bindings, --gin.NAME=value, are taken out before argparse sees them.
    bindings = [a.removeprefix("--gin.") for a in arguments if a.startswith("--gin.")]
    args = parser().parse_args([a for a in arguments if not a.startswith("--gin.")])
    try:
        if bindings and not hasattr(args, "gin_file"):
            raise UserError("this command takes no --gin bindings")
        args.gin_bindings = bindings
        return args.run(args) or 0
    except UserError as error:
        print(f"pagnol: error: {error}", file=sys.stderr)
        return 2
    except Stopped as stop:
        print(f"pagnol: {stop}", file=sys.stderr)
        return 128 + stop.signal
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    except OSError as error:  # a full disk, a folder that may not be written: the system's own words
        print(f"pagnol: error: {error.strerror or error}: {error.filename or 'output'}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
