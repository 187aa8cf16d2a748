"""Keyed pseudo-random permutations of range(n), any element of one in constant time and memory.

A Feistel network (Luby and Rackoff 1988) on the smallest power of two that holds n, walked along its cycle
until it falls below n (Black and Rogaway 2002): two steps on average at most.
"""

from __future__ import annotations

import numpy as np

ROUNDS = 6
_ODD = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
_ROUND_KEYS = [np.uint64(round * 0xBF58476D1CE4E5B9 % 2**64) for round in range(1, ROUNDS + 1)]


def mix(value: np.ndarray) -> np.ndarray:
    """A bijection of uint64 that scatters neighbours (the finaliser of MurmurHash3)."""
    value = (value ^ (value >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    value = (value ^ (value >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return value ^ (value >> np.uint64(33))


def permute(index: np.ndarray, size: np.ndarray, key: np.ndarray) -> np.ndarray:
    """int64 [N]: where the permutation of range(size) that key (uint64, mixed) names sends index; all [N]."""
    bits = np.array([max(int(n) - 1, 3).bit_length() for n in size], np.uint64)
    value, size = index.astype(np.uint64), size.astype(np.uint64)
    value = _feistel(value, bits, key)
    while (outside := np.flatnonzero(value >= size)).size:
        value[outside] = _feistel(value[outside], bits[outside], key[outside])
    return value.astype(np.int64)


def _feistel(value: np.ndarray, bits: np.ndarray, key: np.ndarray) -> np.ndarray:
    """One pass; the halves differ by a bit where `bits` is odd, and swap their widths every round."""
    one, word = np.uint64(1), np.uint64(64)
    low_bits = bits >> one
    high_bits = bits - low_bits
    for round_key in _ROUND_KEYS:
        low = value & ((one << low_bits) - one)
        scattered = (low ^ key ^ round_key) * _ODD[0]
        scattered = (scattered ^ (scattered >> np.uint64(32))) * _ODD[1]
        high = (value >> low_bits) ^ (scattered >> (word - high_bits))
        value = (low << high_bits) | high
        low_bits, high_bits = high_bits, low_bits
    return value
