"""Criteo's formats: ids against a slow reading of the same file, vocabularies, kills, and what is wrong with a file."""

import gzip
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pagnol_jax.data.zoo import criteo as module
from pagnol_jax.data.zoo.criteo import criteo
from pagnol_jax.data.zoo.criteo_vocabulary import Tally, category_keys, counted, hashed, integer_keys
from pagnol_jax.data.zoo.rows import Rows
from pagnol_jax.errors import UserError

NAMES = ["Label", *(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27))]


def values(count: int) -> list[list[str]]:
    """Rows of text: whole numbers with gaps and negatives, categories of eight digits, rare and frequent, with gaps."""
    random = np.random.default_rng(0)
    rows = []
    for _ in range(count):
        numbers = [str(n) if n > -3 else "" for n in (random.geometric(0.02, 13) - 4 - random.integers(0, 2, 13))]
        codes = [f"{int(code):08x}" if code else "" for code in random.geometric(0.2, 26) - 1]
        rows.append([str(random.integers(2)), *numbers, *codes])
    return rows


def write(path: Path, rows: list[list[str]], separator: str = "\t", header: list[str] | None = None) -> Path:
    lines = [separator.join(row) for row in ([header] if header else []) + rows]
    text = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def token(field: int, value: str) -> str:
    """torchfm's: integers above 2 by the floor of their squared logarithm, others less 2."""
    if field >= 13 or not value:
        return value
    number = int(value)
    return f"b{math.floor(math.log(number) ** 2) if number > 2 else number - 2}"


def same_partition(ids: np.ndarray, tokens: list[str], frequent: set[str], last: int) -> bool:
    """Whether frequent tokens have an id of their own each, and all others the last one."""
    pairs = {(token if token in frequent else None, int(i)) for i, token in zip(ids, tokens, strict=True)}
    own = [i for token, i in pairs if token is not None]
    return len(set(own)) == len(own) == len(frequent) and all(i == last for token, i in pairs if token is None)


@pytest.mark.parametrize("name", ["train.txt", "train.txt.gz", "train.csv"])
def test_ids_are_those_of_a_slow_reading(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 20_000)  # several blocks
    rows = values(700)
    if name == "train.csv":  # columns in another order, one that is not ours, and lines that end as on Windows
        header = ["Id", *NAMES[::-1]]
        path = write(tmp_path / name, [["7", *row[::-1]] for row in rows], ",", header)
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    else:
        path = write(tmp_path / name, rows)
    found = criteo(str(path), counted(rarer_than=20), str(tmp_path / "cache"))
    assert found.ids.shape == (700, 39)
    assert found.ids.dtype == np.int32
    np.testing.assert_array_equal(found.labels, [int(row[0]) for row in rows])
    for field in range(39):
        tokens = [token(field, row[field + 1]) for row in rows]
        frequent = {value for value, count in Counter(tokens).items() if count >= 20}
        assert found.sizes[field] == len(frequent) + 1
        assert same_partition(found.ids[:, field], tokens, frequent, len(frequent))


def test_hashed_ids_keep_the_whole_numbers_apart(tmp_path: Path) -> None:
    rows = values(300)
    found = criteo(str(write(tmp_path / "train.txt", rows)), hashed(97), str(tmp_path))
    assert found.sizes == (512,) * 13 + (97,) * 26
    assert (found.ids < np.array(found.sizes)).all()
    tokens = [token(0, row[1]) for row in rows]
    assert len(set(tokens)) == len(set(zip(tokens, found.ids[:, 0].tolist(), strict=True))) == len(set(found.ids[:, 0]))


def test_keys() -> None:
    written = np.array([b"", b"-1", b"0", b"2", b"3", b"260.0", b"2147483647", b"-99999"])
    assert integer_keys(written).tolist() == [0, 6, 7, 9, 10, 9 + 30, 9 + 461, 1]
    narrow, wide = np.array([b"05db9164", b""]), np.array([b"05db9164", b"", b"05db91640", b"05db91641"])
    np.testing.assert_array_equal(category_keys(narrow), category_keys(wide)[:2])
    assert len(set(category_keys(wide).tolist())) == 4


def test_tally_counts_across_merges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pagnol_jax.data.zoo.criteo_vocabulary._MERGE_AT", 10)
    random, tally = np.random.default_rng(0), Tally()
    keys = [random.integers(0, 60, 25).astype(np.uint64) for _ in range(20)]
    for some in keys:
        tally.add(some)
    counts = Counter(np.concatenate(keys).tolist())
    assert tally.frequent(9).tolist() == sorted(key for key, count in counts.items() if count >= 9)


def test_a_cache_is_read_again_and_a_killed_one_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, cache = write(tmp_path / "train.txt", values(100)), tmp_path / "cache"

    def killed(*_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            criteo(str(path), counted(2), str(cache))
    assert not [folder for folder in cache.iterdir() if folder.is_dir() and not folder.suffix]
    first = criteo(str(path), counted(2), str(cache))
    assert isinstance(first.ids, np.memmap)
    with monkeypatch.context() as patched:
        patched.setattr(module, "_build", None)  # not called
        assert_same(criteo(str(path), counted(2), str(cache)), first)
    assert criteo(str(path), counted(3), str(cache)).fingerprint != first.fingerprint


def assert_same(one: Rows, other: Rows) -> None:
    np.testing.assert_array_equal(one.ids, other.ids)
    np.testing.assert_array_equal(one.labels, other.labels)
    assert one[2:] == other[2:]


def changed(row: int, column: int, value: str | None) -> list[list[str]]:
    rows = values(5)
    rows[row] = rows[row][:column] + ([] if value is None else [value]) + rows[row][column + 1 :]
    return rows


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (changed(3, 40, "x"), None, "line 4: 41 columns where 40 are expected"),
        (changed(1, 5, None), NAMES, "line 3: 39 columns where 40 are expected"),
        (changed(2, 0, "2"), None, "line 3: label '2' is not 0 or 1"),
        (changed(2, 4, "many"), NAMES, "line 4: I4 'many' is not a number"),
        ([], None, "empty"),
        ([], NAMES, "no rows"),
        ([], NAMES[:-1], "line 1: the header has no column C26"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_a_line(
    tmp_path: Path, rows: list[list[str]], header: list[str] | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        criteo(str(write(tmp_path / "train.txt", rows, header=header)), counted(2), str(tmp_path / "cache"))


def test_a_file_that_is_not_there_and_one_cut_off(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.txt: no such file"):
        criteo(str(tmp_path / "none.txt"))
    path = write(tmp_path / "train.txt.gz", values(200))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="end-of-stream"):
        criteo(str(path), counted(2), str(tmp_path / "cache"))


def test_the_samples(data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir / "recommender" / "criteo_tiny"
    found = criteo(str(folder / "train.tiny.csv"), cache=str(tmp_path))
    assert len(found.labels) == 1_999
    assert found.labels.sum() == 418
    assert len(criteo(str(folder / "deepctr_criteo_sample.txt"), cache=str(tmp_path)).labels) == 200
