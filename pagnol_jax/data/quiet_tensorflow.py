"""TensorFlow and seqio, imported late, quiet, and kept off the accelerators. Import this only to build."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator

from pagnol_jax.errors import UserError

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@contextlib.contextmanager
def _nothing_on_stderr() -> Iterator[None]:
    """TensorFlow's libraries write on the file descriptor itself while they load, whatever the log level."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


try:
    with _nothing_on_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")
        import seqio
except ImportError as error:
    raise UserError(
        f"building a token cache needs seqio and TensorFlow ({error}): pip install 'pagnol_jax[data]'"
    ) from None

logging.getLogger("tensorflow").setLevel(logging.ERROR)

__all__ = ["seqio", "tf"]
