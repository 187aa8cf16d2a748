"""Reading gin files for a command: where they are looked up, and their errors in one line."""

import argparse
import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pagnol_jax
from pagnol_jax.errors import UserError

PACKAGE = Path(pagnol_jax.__file__).parent
# In a checkout gin/ lies beside the package, in a wheel inside it.
SEARCH_PATH = [folder for folder in (PACKAGE.parent / "gin", PACKAGE / "gin") if folder.is_dir()]
READ_BY_COMMANDS = {"RUNGS"}  # macros that no binding uses
INCOMPLETE = ("No values supplied by Gin", "Required bindings for", "set to `%gin.REQUIRED`")  # gin's words
T = TypeVar("T")


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
        "--gin.NAME",
        metavar="VALUE",
        dest="gin_help",
        help="overrides a gin macro or binding (as in --gin.TOTAL_STEPS=100)",
    )


def parse(files: Sequence[str], bindings: Sequence[str], whole: bool = True) -> None:
    """Clears gin and reads files, then bindings. `whole`: every macro must be bound by now, and be of use.

    Raises UserError, in one line, for whatever gin refuses.
    """
    import gin

    gin.clear_config()
    gin.config._LOCATION_PREFIXES[:] = ["", *map(str, SEARCH_PATH)]
    # Files are files: gin's reader of resources would import a `runs/` of the working folder as a package.
    gin.config._FILE_READERS[1:] = []
    with _told(""):
        gin.parse_config_files_and_bindings(list(files), [], finalize_config=False)
    for binding in bindings:
        with _told(f"--gin.{binding}: "):
            gin.parse_config(binding)
    if whole:
        _check_macros()
        with _told(""):
            gin.finalize()


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # gin has no error of its own
        raise UserError(f"gin: {what}{_one_line(error)}") from error


def _check_macros() -> None:
    """Raises UserError for a macro that is used but not bound, or bound but not used: a name misspelt."""
    import gin

    config, macro = gin.config._CONFIG, gin.get_configurable(gin.config.macro)
    used = {r.config_key[0] for r in gin.config.iterate_references(config, macro)}
    bound = {scope for scope, selector in config if selector == "gin.macro"}
    if missing := sorted(used - bound):
        names = ", ".join(missing)
        raise UserError(f"gin: no value for {names}: give --gin.{missing[0]}=... or bind it in a file")
    if unknown := sorted(bound - used - READ_BY_COMMANDS):
        raise UserError(f"gin: unknown name {', '.join(unknown)}: nothing here uses it")


def call(function: Callable[..., T], **arguments: Any) -> T:
    """Calls `function` with its gin bindings.

    Raises UserError for arguments that no gin file gave, and for whatever a constructor says of bound values.
    """
    import gin

    try:
        with plain_errors():
            return gin.get_configurable(function)(**arguments)
    except UserError:
        raise
    except Exception as error:
        inner = re.search(r"In call to configurable '(\w+)'", str(error))
        if inner and inner[1] != function.__name__:
            raise UserError(f"gin: {inner[1]}: {_one_line(error)}") from error
        if any(sign in str(error) for sign in INCOMPLETE):
            raise UserError(f"gin: {_one_line(error)}") from error
        raise


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Around calls of what `bindings` gave: errors without the lines that gin adds."""
    try:
        yield
    except (UserError, OSError) as error:
        raise UserError(_one_line(error)) from error


def imports(files: Sequence[str]) -> dict[str, str]:
    """{name: import line} of all that files and those that they include import."""
    found: dict[str, str] = {}
    for file in files:
        path = next(folder / file for folder in (Path(), *SEARCH_PATH) if (folder / file).is_file())
        text = path.read_text(encoding="utf-8")
        found |= imports(re.findall(r"^include '([^']+)'", text, re.MULTILINE))
        found |= {name: line for line, name in re.findall(r"^(from [\w.]+ import (\w+))$", text, re.MULTILINE)}
    return found


def bindings(function: Callable[..., Any]) -> dict[str, Any]:
    """What gin files bind to the arguments of `function`, references followed."""
    import gin

    with _told(""):
        return gin.get_bindings(gin.get_configurable(function))


def _one_line(error: BaseException) -> str:
    """What happened, and in which line of which file."""
    what, *details = (str(error) or type(error).__name__).splitlines()
    what = re.sub(r":? <[^<>]* at 0x[0-9a-f]+>", "", what)
    places = [f" ({line.strip()[3:]})" for line in details if line.startswith("  In file")]
    return " ".join(what.split()) + "".join(places[:1])
