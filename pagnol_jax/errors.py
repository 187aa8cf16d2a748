"""The one error that a user can cause and can mend."""

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike


class UserError(Exception):
    """Bad input, told in one line; the command line prints it and exits with status 2."""


@contextmanager
def writing(path: PathLike[str]) -> Iterator[None]:
    """Around what writes a file for the user: UserError, in one line, where it cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
