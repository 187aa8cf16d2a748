import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pagnol_jax.data.permutation import mix, permute


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_it_is_a_permutation(size, key):
    keys = mix(np.full(size, key, np.uint64))
    image = permute(np.arange(size), np.full(size, size), keys)
    assert np.array_equal(np.sort(image), np.arange(size))


def test_any_element_alone_is_the_same():
    keys = np.full(1000, 7, np.uint64)
    whole = permute(np.arange(1000), keys * 0 + 1000, keys)
    assert [int(permute(np.array([i]), np.array([1000]), keys[:1])[0]) for i in range(0, 1000, 97)] == whole[
        ::97
    ].tolist()


def test_huge_sizes_cost_nothing():
    size = 10**13 + 7
    index = np.array([0, 1, size - 1])
    image = permute(index, np.full(3, size), np.full(3, 3, np.uint64))
    assert len(set(image.tolist())) == 3
    assert image.min() >= 0
    assert image.max() < size


def test_it_scatters():
    """As a uniform permutation: distance of neighbours, fixed points, where the first half goes."""
    size, keys = 4096, np.arange(40, dtype=np.uint64)
    index, sizes = np.arange(size), np.full(size, size)
    images = np.stack([permute(index, sizes, np.full(size, key)) for key in mix(keys)])
    distance = np.abs(np.diff(images, axis=1)).mean()
    assert abs(distance / (size / 3) - 1) < 0.02
    assert (images == np.arange(size)).sum(axis=1).mean() < 3
    assert abs((images[:, : size // 2] < size // 2).mean() - 0.5) < 0.01
    assert (images[0] == images[1]).sum() < 10


def test_sizes_may_differ_from_row_to_row():
    sizes = np.array([1, 2, 3, 1000, 10**9])
    keys = mix(np.arange(5, dtype=np.uint64))
    together = permute(sizes - 1, sizes, keys)
    alone = [permute(sizes[i : i + 1] - 1, sizes[i : i + 1], keys[i : i + 1])[0] for i in range(5)]
    assert together.tolist() == alone
    assert (together < sizes).all()
