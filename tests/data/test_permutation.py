import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pagnol_jax.data.permutation import mix, permute


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_it_is_a_permutation(size, key):
    keys = np.full(size, key, np.uint64)
    image = permute(np.arange(size), size, keys)
    assert np.array_equal(np.sort(image), np.arange(size))


def test_any_element_alone_is_the_same():
    keys = np.full(1000, 7, np.uint64)
    whole = permute(np.arange(1000), 1000, keys)
    assert [int(permute(np.array([i]), 1000, keys[:1])[0]) for i in range(0, 1000, 97)] == whole[
        ::97
    ].tolist()


def test_huge_sizes_cost_nothing():
    size = 10**13 + 7
    index = np.array([0, 1, size - 1])
    image = permute(index, size, np.full(3, 3, np.uint64))
    assert len(set(image.tolist())) == 3
    assert image.min() >= 0
    assert image.max() < size


def test_it_scatters():
    """Against a uniform permutation: neighbours' distance, fixed points, the balance of where the first half goes."""
    size, keys = 4096, np.arange(40, dtype=np.uint64)
    images = np.stack([permute(np.arange(size), size, np.full(size, mix(key[None])[0])) for key in keys])
    distance = np.abs(np.diff(images, axis=1)).mean()
    assert abs(distance / (size / 3) - 1) < 0.02
    assert (images == np.arange(size)).sum(axis=1).mean() < 3
    assert abs((images[:, : size // 2] < size // 2).mean() - 0.5) < 0.01
    assert (images[0] == images[1]).sum() < 10
