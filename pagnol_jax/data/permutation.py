"""A keyed pseudo-random permutation of range(n), any element of it in constant time and memory.

A Feistel network (Luby and Rackoff 1988) on the smallest power of two that holds n, walked along its cycle until
it falls below n (Black and Rogaway 2002): two steps on average at most.
"""

from __future__ import annotations

import numpy as np

ROUNDS = 6


def mix(value: np.ndarray) -> np.ndarray:
    """A bijection of uint64 that scatters neighbours (the finaliser of MurmurHash3)."""
    value = (value ^ (value >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    value = (value ^ (value >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return value ^ (value >> np.uint64(33))


def permute(index: np.ndarray, size: int, key: np.ndarray) -> np.ndarray:
    """int64 [N]: where the permutation named by key [N] (uint64) of range(size) sends index [N]."""
    bits = max(size - 1, 1).bit_length()
    value = _feistel(index.astype(np.uint64), bits, key)
    while (outside := value >= np.uint64(size)).any():
        value[outside] = _feistel(value[outside], bits, key[outside])
    return value.astype(np.int64)


def _feistel(value: np.ndarray, bits: int, key: np.ndarray) -> np.ndarray:
    """One pass; the halves differ by a bit where `bits` is odd and swap their widths every round."""
    low_bits = bits // 2
    for round in range(ROUNDS):
        high_bits = bits - low_bits
        low = value & np.uint64((1 << low_bits) - 1)
        high = value >> np.uint64(low_bits)
        scattered = mix(low ^ mix(key + np.uint64(round))) & np.uint64((1 << high_bits) - 1)
        value = (low << np.uint64(high_bits)) | (high ^ scattered)
        low_bits = high_bits
    return value
