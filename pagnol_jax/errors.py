"""The one error that a user can cause and can mend, and the stop that a user asks for."""

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from signal import Signals


class UserError(Exception):
    """Bad input, told in one line; the command line prints it and exits with status 2."""


class Stopped(Exception):  # noqa: N818 (no error, as StopIteration is none)
    """A signal ended a run after a checkpoint; the command line says so and exits with 128 + its number."""

    def __init__(self, signal: Signals, kept: str = "checkpoint saved") -> None:
        super().__init__(f"{signal.name}: {kept}; the same command goes on from it")
        self.signal = signal


def check_counts(**counts: int) -> None:
    """Raises UserError for a setting that is no whole number above 0."""
    for name, count in counts.items():
        if not isinstance(count, int) or count < 1:
            raise UserError(f"{name} {count!r} is not a whole number above 0")


@contextmanager
def writing(path: PathLike[str]) -> Iterator[None]:
    """Around what writes a file for the user: UserError, in one line, where it cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
