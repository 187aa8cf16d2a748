"""Paths with globs."""

import pytest

from pagnol_jax.dfa.select import fits


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("mlp/layer_0", "mlp/layer_*", True),
        ("mlp/layer_0/norm", "mlp/layer_*", False),
        ("mlp/layer_0/norm", "mlp/**", True),
        ("mlp", "mlp/**", True),
        ("a/b/mlp/c/norm", "**/mlp/**/norm", True),
        ("blocks/mlp", "mlp", False),
        ("", "", True),
        ("a", "", False),
        ("", "*", False),
        ("", "**", True),
        ("layer_12", "layer_?", False),
    ],
)
def test_stars_stand_within_a_name_and_pairs_of_them_for_names(name: str, pattern: str, expected: bool) -> None:
    assert fits(name, pattern) is expected
