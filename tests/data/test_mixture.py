import pickle

import pytest

from pagnol_jax.data.corpora import jsonl
from pagnol_jax.data.mixture import Mixture, check, folder_name, trained_bpe
from pagnol_jax.errors import UserError

CORPUS = jsonl("a.jsonl")
GOOD = Mixture("good", {"a": CORPUS, "b": CORPUS}, {"a": 1.0, "b": 2.0}, trained_bpe(300))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "a/b"}, "the name 'a/b'"),
        ({"corpora": {}}, "rates are given for"),
        ({"rates": {"a": 1.0}}, r"rates are given for \[a\], corpora are \[a, b\]"),
        ({"rates": {"a": 1.0, "b": 0.0}}, "must be above 0"),
        ({"rates": {"a": 1.0, "b": float("nan")}}, "must be above 0"),
        ({"validation": {"c": CORPUS}}, "validation of c"),
        ({"holdout": 1.5}, "no fraction"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(UserError, match=message):
        check(GOOD._replace(**change))


def test_a_good_one_passes_and_travels():
    check(GOOD)
    assert folder_name(pickle.loads(pickle.dumps(GOOD))) == folder_name(GOOD)
    assert folder_name(GOOD._replace(rates={"a": 9.0, "b": 1.0})) == folder_name(GOOD)
    assert folder_name(GOOD._replace(holdout=0.5)) != folder_name(GOOD)
