"""Planetoid files: every node in its place, isolated ones too; no pickle runs; bad files are told in a line."""

import os
import pickle
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from data.zoo.planetoid_files import dumps, write

from pagnol_jax.data.zoo import planetoid, ranking, splits
from pagnol_jax.errors import UserError


def test_reads_nodes_into_their_places(tmp_path: Path) -> None:
    features, labels = write(tmp_path)
    graph = planetoid.load("toy", str(tmp_path))
    np.testing.assert_array_equal(graph.features.toarray(), features)
    np.testing.assert_array_equal(graph.labels, labels)
    assert graph.classes == 3
    train, validation, test = graph.public
    np.testing.assert_array_equal(train, np.arange(12))
    np.testing.assert_array_equal(validation, np.arange(12, 40))  # 500 where there are as many
    np.testing.assert_array_equal(test, [n for n in range(40, 60) if n not in (45, 51)])
    pairs = {tuple(pair) for pair in graph.edges.T}
    assert len(pairs) == graph.edges.shape[1]
    assert all((j, i) in pairs and i != j for i, j in pairs)
    assert not {45, 51} & set(graph.edges.ravel())
    assert (np.diff(graph.edges[1]) >= 0).all()


def test_cora(data_dir: Path) -> None:
    graph = planetoid.load("cora", str(data_dir / "graphs/cora"))
    assert graph.features.shape == (2708, 1433)
    assert graph.features.nnz == 49_216
    assert graph.edges.shape == (2, 2 * 5278)
    assert [len(part) for part in graph.public] == [140, 500, 1000]
    assert np.bincount(graph.labels[graph.public.train]).tolist() == [20] * 7
    assert np.bincount(graph.labels).tolist() == [351, 217, 418, 818, 426, 298, 180]  # of LINQS


class Hostile:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("part", ["x", "graph", "ty"])
def test_a_hostile_pickle_does_not_run(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    for protocol in (0, 2, 4):
        (tmp_path / f"ind.toy.{part}").write_bytes(pickle.dumps({0: [Hostile()]}, protocol))
        with pytest.raises(UserError, match=rf"ind.toy.{part}: names (posix|nt|os).mkdir, which no Planetoid"):
            planetoid.load("toy", str(tmp_path))
    assert not Path("ran").exists()


def array(code: str = "f8", state: tuple = (3, "<", None, None, None, -1, -1, 0), shape: tuple = (2, 2)) -> bytes:
    """A pickle of an array of 32 bytes, made by the names that Planetoid's files have, as one may craft it."""
    made = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR"  # ndarray, (0,), 'b'
    dtype = b"cnumpy\ndtype\n(U" + bytes([len(code)]) + code.encode() + b"I0\nI1\ntR" + literal(state) + b"b"
    content = b"U" + bytes([32]) + np.full(4, 0x4141414141414141, np.int64).tobytes()
    return made + b"(I1\n" + literal(shape) + dtype + b"I00\n" + content + b"tb."


def literal(value: object) -> bytes:
    """The opcodes that push `value`, without a frame."""
    return pickle.dumps(value, 2)[2:-1]


@pytest.mark.parametrize(
    ("crafted", "said"),
    [
        (array("O8", (3, "|", None, None, None, -1, -1, 0)), "holds an array of type 'O8', not of plain numbers"),
        (array("V8", (3, "|", None, ("f",), {"f": 0}, 8, 1, 0)), "holds an array of type 'V8', not of plain numbers"),
        (array("i8", (3, "<", (1, (2,)), None, None, -1, -1, 0)), "holds an array that is not of plain numbers"),
        (array("i8", (3, "O", None, None, None, -1, -1, 0)), "holds an array that is not of plain numbers"),
        (array(shape=(2, 3)), "holds an array of another size"),
        (array(shape=(-2, -2)), "holds an array of another size"),
        (array("f3"), "not a Planetoid pickle"),
        (array(), ""),
    ],
)
def test_a_crafted_array_is_numbers_or_refused(crafted: bytes, said: str, tmp_path: Path) -> None:
    """Raw bytes that a dtype calls objects would be pointers, followed when the array goes."""
    write(tmp_path)
    (tmp_path / "ind.toy.y").write_bytes(crafted)
    with pytest.raises(UserError, match=f"ind.toy.y: {said}" if said else "y, ty and ally have other numbers of cl"):
        planetoid.load("toy", str(tmp_path))


@pytest.mark.parametrize("name", ["scipy.sparse.csr\ncsr_matrix", "numpy.core.multiarray\n_reconstruct"])
@pytest.mark.parametrize("made", [b")R", b""])  # called, or the name itself
def test_no_stand_in_points_to_memory(name: str, made: bytes, tmp_path: Path) -> None:
    """numpy reads what an object's __array_interface__ points to: here the nodes of edges, node 0 six times."""
    write(tmp_path)
    zeros = np.zeros(6, np.int64)
    interface = {"data": (zeros.ctypes.data, True), "typestr": "<i8", "shape": (6,), "version": 3}
    for state in ({"__array_interface__": interface}, (None, {"__array_interface__": interface})):
        node = f"c{name}\n".encode() + made + literal(state) + b"b"
        (tmp_path / "ind.toy.graph").write_bytes(b"\x80\x02}" + node + b"q\x00]h\x00as.")
        with pytest.raises(UserError, match=r"ind.toy.graph: not a "):
            planetoid.load("toy", str(tmp_path))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["<i4", ">i2", "|u1", "<f8"])
def test_arrays_keep_their_order_and_kind(kind: str, order: Literal["C", "F"], tmp_path: Path) -> None:
    _, labels = write(tmp_path)
    table = np.asarray(np.eye(3)[labels[:40]], kind, order=order)
    (tmp_path / "ind.toy.ally").write_bytes(dumps(table))
    np.testing.assert_array_equal(planetoid.load("toy", str(tmp_path)).labels, labels)


@pytest.mark.parametrize(
    ("part", "content", "said"),
    [
        ("graph", dumps({0: [2**70]}), "ind.toy.graph: not a dictionary of neighbours"),
        ("graph", None, "ind.toy.graph: No such file"),
        ("graph", b"\x80\x02not", "ind.toy.graph: not a Planetoid pickle: "),
        ("graph", b"", "ind.toy.graph: not a Planetoid pickle: Ran out of input"),
        ("graph", dumps([1]), "ind.toy.graph: not a dictionary of neighbours"),
        ("graph", dumps({0: [60]}), "ind.toy.graph: names node 60 of 60"),
        ("x", dumps([]), "ind.toy.tx: no sparse matrix"),
        ("y", dumps(np.zeros(3)), "ind.toy.y: not one row of class indicators a node"),
        ("y", dumps(np.zeros((12, 4))), "y, ty and ally have other numbers of classes"),
        ("ally", dumps(np.zeros((39, 3))), "allx has 40 rows, ally 39"),
        ("test.index", b"40\n41\n", "tx has 18 rows, test.index 2"),
        ("test.index", b"forty\n", "ind.toy.test.index: not a list of node numbers"),
        ("test.index", b"\n", "ind.toy.test.index: empty"),
        ("test.index", b"39\n" + b"".join(b"%d\n" % n for n in range(41, 58)), "repeats nodes, or names some of allx"),
    ],
)
def test_bad_files_are_told_in_a_line(part: str, content: bytes | None, said: str, tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / f"ind.toy.{'tx' if part == 'x' else part}"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UserError) as error:
        planetoid.load("toy", str(tmp_path))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PAGNOL_DATA_DIR", raising=False)
    with pytest.raises(UserError, match="set that variable"):
        planetoid.load()


@pytest.fixture
def toy(tmp_path: Path) -> planetoid.Graph:
    write(tmp_path)
    return planetoid.load("toy", str(tmp_path))


def test_five_folds_are_stratified(toy: planetoid.Graph) -> None:
    train, validation, test = splits.five_folds(toy, seed=1)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, validation, test])), np.arange(60))
    assert [len(train), len(validation), len(test)] == [12, 12, 36]
    share = np.bincount(toy.labels) / 5
    assert np.abs(np.bincount(toy.labels[train]) - share).max() <= 1
    assert splits.five_folds(toy, seed=1).train.tolist() == train.tolist() != splits.five_folds(toy, 2).train.tolist()


def test_held_out_edges(toy: planetoid.Graph) -> None:
    split = splits.held_out_edges(toy, seed=3)
    everywhere = {frozenset(pair) for pair in toy.edges.T.tolist()}
    train, test, absent = ({frozenset(pair) for pair in part.T.tolist()} for part in split)
    count = len(everywhere)
    assert len(test) == len(absent) == split.absent.shape[1] == int(0.1 * count)
    assert len(train) == split.train.shape[1] // 2 == count - int(0.1 * count) - int(0.05 * count)
    assert train | test <= everywhere
    assert not train & test
    assert not absent & everywhere
    assert all(len(pair) == 2 for pair in absent)
    lonely = toy._replace(edges=toy.edges[:, :2])
    with pytest.raises(UserError, match="cannot be split"):
        splits.held_out_edges(lonely, 0)


def test_average_precision() -> None:
    """Against its definition: the mean, over positives, of the precision at each one's score."""
    random = np.random.default_rng(0)
    for levels in (5, 1000):  # many ties and few
        scores, labels = random.integers(levels, size=200).astype(float), random.integers(2, size=200)
        precisions = [labels[scores >= s].mean() for s, y in zip(scores, labels, strict=True) if y]
        assert ranking.average_precision(scores, labels) == pytest.approx(np.mean(precisions))
