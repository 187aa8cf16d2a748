"""Fused attention, interpreted on a CPU, against plain attention: values, gradients, and which kernel runs."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.kernel_cases import HEADS, MASKS, SCHEMES, expect, inputs, make_mask, run, worst

from pagnol_jax.errors import UserError
from pagnol_jax.models import kernels
from pagnol_jax.models.attention import attend
from pagnol_jax.models.kernels import blocks, flash
from pagnol_jax.models.masks import Mask

LENGTH = 640  # five blocks of 128
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}
GRID = list(itertools.product(MASKS, SCHEMES, HEADS, TOLERANCE))
# Every mask with every scheme, every grouping of heads with every dtype.
FAST = [
    (mask, scheme, list(HEADS)[(i + j) % 4], list(TOLERANCE)[(i + j // 2) % 2])
    for (i, mask), (j, scheme) in itertools.product(enumerate(MASKS), enumerate(SCHEMES))
]


def check(case: tuple[str, ...], length: int = LENGTH) -> None:
    """Fused equals plain attention of the same inputs in float32, so that a fused kernel may round no more."""
    mask_name, scheme, heads, dtype = case
    arrays, mask = inputs(2, length, HEADS[heads], 16, dtype), make_mask(mask_name, 2, length)
    fused = run("fused", arrays, mask, SCHEMES[scheme])
    assert worst(fused, expect(arrays, mask, SCHEMES[scheme])) < TOLERANCE[dtype]


@pytest.mark.parametrize("case", FAST, ids=" ".join)
def test_fused_is_plain(case: tuple[str, ...]) -> None:
    check(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in GRID if case not in FAST], ids=" ".join)
def test_fused_is_plain_everywhere(case: tuple[str, ...]) -> None:
    check(case)


def test_fast_cases_hold_every_pair_but_of_masks_and_heads() -> None:
    def pairs(cases: list) -> set:
        return {(i, case[i], j, case[j]) for case in cases for i, j in ((0, 1), (0, 3), (1, 2), (2, 3))}

    assert pairs(FAST) == pairs(GRID)


LENGTHS = [("packed", 129), ("packed prefix", 300), pytest.param("packed prefix", 1100, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("mask", "length"), LENGTHS)
def test_any_length(mask: str, length: int) -> None:
    """Lengths that no block divides are padded, and the padding is seen by nobody."""
    check((mask, "none", "multi-query", "float32"), length)


@pytest.mark.parametrize("length", [*range(1, 1200, 7), 2048, 2049, 32768, 32769])
def test_padded_lengths_divide_into_blocks(length: int) -> None:
    padded = blocks.padded(length)
    assert padded % 128 == 0
    assert 0 <= padded - length < max(128, length / 4)
    for size, whole in zip(blocks.sizes(padded, padded), (padded, padded), strict=True):
        assert whole % size == 0
        assert size % 128 == 0


@pytest.mark.parametrize("mask_name", MASKS)
@pytest.mark.parametrize("offset", [0, 256])
def test_blocks_are_skipped_where_they_are_masked_whole(mask_name: str, offset: int) -> None:
    """For queries that are a part of the slots: between a block's ends lie all blocks that it sees, and no other."""
    length, slots, size = 384, 1280, 128
    mask = make_mask(mask_name, 3, slots)
    keys = None if mask_name == "causal" else flash.tags_of(mask)
    queries = None if keys is None else keys[:, offset : offset + length]
    allowed = np.asarray(mask.allowed(offset + jnp.arange(length), jnp.arange(slots)))
    allowed = np.broadcast_to(allowed, (3, length, slots))
    seen = allowed.reshape(3, length // size, size, slots // size, size).any(axis=(2, 4))
    spans = blocks.spans(queries, keys, offset, (3, length, slots), (size, size))
    for near, truth in zip(spans, (seen, seen.swapaxes(1, 2)), strict=True):
        low, high = (np.asarray(end).reshape(*truth.shape[:2], 1) for end in (near.low, near.high))
        index, sees_any = np.arange(truth.shape[2]), truth.any(axis=2)
        inside = (low <= index) & (index <= high)
        np.testing.assert_array_equal(inside[sees_any], truth[sees_any])


def kernels_in(mask: Mask, slopes: jax.Array | None, kernel: str, length: int = 256) -> str:
    """The program of attention forward and back."""
    arrays = inputs(1, length, (2, 2), 16, "bfloat16")

    def values(query, key, value, cotangent):
        out, pull = jax.vjp(lambda q, k, v: attend(q, k, v, mask, slopes, kernel), query, key, value)
        return out, *pull(cotangent)

    return str(jax.make_jaxpr(values)(*arrays))


@pytest.mark.parametrize("name", MASKS)
def test_splash_where_it_can_and_flash_elsewhere(name: str) -> None:
    splash, flash = ("splash_mha", "flash_") if "prefix" not in name else ("flash_", "splash_mha")
    program = kernels_in(make_mask(name, 1, 256), None, "fused")
    assert splash in program
    assert flash not in program
    assert "splash" not in kernels_in(make_mask(name, 1, 256), jnp.ones(2), "fused")


def test_plain_on_a_cpu_and_for_short_sequences() -> None:
    assert "pallas_call" not in kernels_in(Mask(), None, "auto")
    assert "pallas_call" not in kernels_in(Mask(), None, "fused", length=127)
    assert "pallas_call" in kernels_in(Mask(), None, "fused", length=128)


def test_unknown_kernels_are_user_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="'fast' is none of auto, fused, plain"):
        kernels_in(Mask(), None, "fast")
    monkeypatch.setattr(kernels, "platform", lambda: "abacus")
    with pytest.raises(UserError, match="no fused attention on 'abacus'"):
        kernels_in(Mask(), None, "fused")
    assert "pallas_call" not in kernels_in(Mask(), None, "auto")
