"""Reading gin files for a command: where they are looked up, and their errors in one line."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import pagnol_jax
from pagnol_jax.errors import UserError

PACKAGE = Path(pagnol_jax.__file__).parent
# In a checkout gin/ lies beside the package, in a wheel inside it.
SEARCH_PATH = [folder for folder in (PACKAGE.parent / "gin", PACKAGE / "gin") if folder.is_dir()]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--gin_file FILE (several), and --gin.NAME=value, which `cli.main` has taken out already."""
    parser.add_argument(
        "--gin_file",
        action="append",
        required=True,
        metavar="FILE",
        help="gin file, looked up here and in the gin/ folder of pagnol_jax; several are read in order",
    )
    parser.add_argument(
        "--gin.NAME", metavar="VALUE", dest="gin_help", help="overrides a gin macro or binding (as in --gin.TOTAL_STEPS=100)"
    )


def parse(files: Sequence[str], bindings: Sequence[str], whole: bool = True) -> None:
    """Clears gin and reads files, then bindings. `whole`: every macro must be bound by now.

    Raises UserError, in one line, for whatever gin refuses.
    """
    import gin

    gin.clear_config()
    for folder in SEARCH_PATH:
        gin.add_config_file_search_path(str(folder))
    logging.disable(logging.ERROR)  # gin reports each folder of the search path that does not have a file
    try:
        gin.parse_config_files_and_bindings(list(files), list(bindings), finalize_config=whole)
    except (OSError, SyntaxError, ValueError, RuntimeError, ImportError, AttributeError, LookupError) as error:
        raise UserError(f"gin: {_first_line(error)}") from error
    finally:
        logging.disable(logging.NOTSET)


def call(function, **arguments):
    """Calls `function` with its gin bindings. Raises UserError for arguments that no gin file gave."""
    import gin

    try:
        return gin.get_configurable(function)(**arguments)
    except (ValueError, TypeError, RuntimeError) as error:
        if "gin" in str(error) or "required positional argument" in str(error) or "missing" in str(error):
            raise UserError(f"gin: {_first_line(error)}") from error
        raise


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split("\n")[0].split())
