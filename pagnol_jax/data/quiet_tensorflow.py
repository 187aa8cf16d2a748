"""TensorFlow and seqio, imported late, quiet, and kept off the accelerators. Import this only to build."""

from __future__ import annotations

import logging
import os
import warnings

from pagnol_jax.errors import UserError

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

try:
    with warnings.catch_warnings():
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
