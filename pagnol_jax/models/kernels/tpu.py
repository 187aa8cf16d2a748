"""Attention on one TPU: splash attention where it can express the mask, this project's kernel elsewhere."""

import jax

from pagnol_jax.models.kernels import flash, splash
from pagnol_jax.models.masks import Mask


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: Mask,
    slopes: jax.Array | None,
    offset: jax.Array | int,
    interpret: bool = False,
) -> jax.Array:
    """A `LocalKernel`. `interpret` runs the kernels' programs on a CPU."""
    query = query * query.shape[-1] ** -0.5
    if slopes is None and mask.bidirectional is None and splash.takes(query.shape[1], key.shape[1]):
        return splash.attend(query, key, value, mask.segment_ids, offset, interpret)
    return flash.attend(query, key, value, mask, slopes, offset, interpret)
