"""Citation graphs in the Planetoid format (Yang, Cohen & Salakhutdinov 2016): Cora, CiteSeer, PubMed, or one's own.

Eight files ind.NAME.{x,tx,allx,y,ty,ally,graph,test.index}, seven of them Python-2 pickles, of which only arrays,
sparse matrices, lists and dictionaries are accepted: a pickle is a program, and whatever else one names is not run.
"""

from __future__ import annotations

import collections
import io
import math
import os
import pickle
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from pagnol_jax.errors import UserError

PARTS = ("x", "tx", "allx", "y", "ty", "ally", "graph")


class Split(NamedTuple):
    """Nodes to train on, to choose the epoch by, and to test on: int64 [n] each."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


class Graph(NamedTuple):
    """N nodes with F sparse features and one of C classes, and their undirected edges.

    features: float32 [N, F], CSR. labels: int32 [N]. edges: int32 [2, E], source and target, both directions, neither
    loops nor duplicates, ordered by target. public: the split that the data set comes with.
    An isolated test node (CiteSeer has 15) has no features, counts as class 0 and is in no part of `public`; splits
    of all nodes (`splits.five_folds`) have it like any other.
    """

    name: str
    features: scipy.sparse.csr_matrix
    labels: np.ndarray
    edges: np.ndarray
    classes: int
    public: Split


def load(name: str = "cora", folder: str = "$PAGNOL_DATA_DIR/graphs/cora") -> Graph:
    """The graph of ind.NAME.* in `folder`.

    Raises UserError, in one line, for files that are missing, damaged, name anything but arrays and lists, or do not
    fit together.
    """
    path = Path(os.path.expandvars(folder))
    if "$" in str(path):
        raise UserError(f"{folder}: set that variable, or give planetoid.load.folder")
    parts = {part: _unpickled(path / f"ind.{name}.{part}") for part in PARTS}
    where = f"{path}/ind.{name}"
    test = _test_index(path / f"ind.{name}.test.index")
    features = {part: _matrix(parts[part], f"{where}.{part}") for part in ("tx", "allx")}
    onehot = {part: _table(parts[part], f"{where}.{part}") for part in ("y", "ty", "ally")}
    train, known = len(onehot["y"]), features["allx"].shape[0]
    _fits(where, features, onehot, test)
    nodes = int(test.max()) + 1
    # Rows of allx keep their places, those of tx go where test.index says; nodes in its gaps stay empty.
    places = np.concatenate([np.arange(known), test])
    rows = scipy.sparse.vstack([features["allx"], features["tx"]]).tocoo()
    shape = (nodes, rows.shape[1])
    whole = scipy.sparse.csr_matrix((rows.data, (places[rows.row], rows.col)), shape=shape, dtype=np.float32)
    labels = np.zeros(nodes, np.int32)
    labels[places] = np.concatenate([onehot["ally"], onehot["ty"]]).argmax(1)
    held_out = np.arange(train, min(train + 500, known))
    edges = _edges(parts["graph"], nodes, f"{where}.graph")
    return Graph(name, whole, labels, edges, onehot["y"].shape[1], Split(np.arange(train), held_out, np.sort(test)))


def _fits(where: str, features: dict[str, Any], onehot: dict[str, np.ndarray], test: np.ndarray) -> None:
    """Raises UserError where the files are not of one data set."""
    known, tested = features["allx"].shape[0], features["tx"].shape[0]
    told = [
        (known != len(onehot["ally"]), f"allx has {known:,} rows, ally {len(onehot['ally']):,}"),
        (not tested == len(onehot["ty"]) == len(test), f"tx has {tested:,} rows, test.index {len(test):,}"),
        (features["tx"].shape[1] != features["allx"].shape[1], "tx and allx have other numbers of features"),
        (len({table.shape[1] for table in onehot.values()}) > 1, "y, ty and ally have other numbers of classes"),
        (len(onehot["y"]) > known, "y is longer than ally"),
        (len(np.unique(test)) < len(test) or test.min() < known, "test.index repeats nodes, or names some of allx"),
    ]
    if wrong := [what for is_so, what in told if is_so]:
        raise UserError(f"{where}.*: {wrong[0]}")


class _Csr:
    """Stands in for scipy's csr_matrix while unpickling: holds what was pickled, and runs nothing.

    Stand-ins have slots and a `__setstate__`, so that a pickle can give them no other attribute: numpy would take the
    memory that an `__array_interface__` points to for an array.
    """

    __slots__ = ("_shape", "data", "indices", "indptr")

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name in self.__slots__:
            setattr(self, name, state[name])


class _Dtype:
    """Stands in for numpy's dtype, whose own state can call raw bytes pointers: a plain kind of numbers or nothing."""

    __slots__ = ("code", "order")

    def __init__(self, code: str, align: object = None, copy: object = None) -> None:
        if not re.fullmatch(r"[biuf]\d{1,2}", code):
            raise UserError(f"holds an array of type {code!r}, not of plain numbers: not read")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.order, *parts = state[:5]
        if self.order not in ("<", ">", "=", "|") or parts != [None] * 3:
            raise UserError("holds an array that is not of plain numbers: not read")


class _Array:
    """Stands in for numpy's ndarray and for _reconstruct, the call that makes an empty one; then come its contents."""

    __slots__ = ("array",)

    def __init__(self, *shape_and_type: object) -> None:
        self.array: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        kind = np.dtype(dtype.order + dtype.code)
        raw = content.encode("latin1") if isinstance(content, str) else content
        if not isinstance(raw, bytes) or min(shape, default=0) < 0 or math.prod(shape) * kind.itemsize != len(raw):
            raise UserError("holds an array of another size than its numbers have: not read")
        self.array = np.frombuffer(raw, kind).reshape(shape, order="F" if fortran else "C")


class _Unpickler(pickle.Unpickler):
    """Knows the six names that occur in Planetoid's files, and refuses all others."""

    KNOWN: dict[tuple[str, str], Any] = {  # noqa: RUF012
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
        ("scipy.sparse.csr", "csr_matrix"): _Csr,
        ("collections", "defaultdict"): collections.defaultdict,
        ("__builtin__", "list"): list,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.KNOWN:
            raise UserError(f"names {module}.{name}, which no Planetoid file does: not read")
        return self.KNOWN[module, name]


def _unpickled(path: Path) -> Any:
    try:
        return _Unpickler(io.BytesIO(path.read_bytes()), encoding="latin1", fix_imports=False).load()
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except Exception as error:  # a damaged pickle fails in any way
        raise UserError(f"{path}: not a Planetoid pickle: {' '.join(str(error).split())}") from None


def _test_index(path: Path) -> np.ndarray:
    try:
        index = np.array(path.read_text(encoding="utf-8").split(), np.int64)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except ValueError:
        raise UserError(f"{path}: not a list of node numbers") from None
    if not len(index):
        raise UserError(f"{path}: empty")
    return index


def _matrix(pickled: Any, where: str) -> scipy.sparse.csr_matrix:
    """float32 [n, F] of what stood for a csr_matrix."""
    try:
        data, indices, indptr = (part.array for part in (pickled.data, pickled.indices, pickled.indptr))
        matrix = scipy.sparse.csr_matrix((data.astype(np.float32), indices, indptr), shape=pickled._shape)
        matrix.check_format(full_check=True)
    except (AttributeError, ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{where}: no sparse matrix: {' '.join(str(error).split())}") from None
    return matrix


def _table(pickled: Any, where: str) -> np.ndarray:
    """Numbers [n, C]."""
    table = pickled.array if isinstance(pickled, _Array) else None
    if table is None or table.ndim != 2 or table.dtype.kind not in "iuf":
        raise UserError(f"{where}: not one row of class indicators a node")
    return table


def _edges(lists: Any, nodes: int, where: str) -> np.ndarray:
    """int32 [2, E] of {node: [neighbours]}, made undirected."""
    if not isinstance(lists, dict):
        raise UserError(f"{where}: not a dictionary of neighbours")
    try:
        pairs = np.array([(i, j) for i, others in lists.items() for j in others], np.int64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{where}: not a dictionary of neighbours") from None
    if len(pairs) and not 0 <= pairs.min() <= pairs.max() < nodes:
        raise UserError(f"{where}: names node {pairs.max():,} of {nodes:,}")
    return undirected(pairs.T)


def undirected(pairs: np.ndarray) -> np.ndarray:
    """int32 [2, E]: pairs [2, P] in both directions, neither loops nor duplicates, ordered by target, then source."""
    pairs = pairs[:, pairs[0] != pairs[1]]
    both = np.unique(np.concatenate([pairs[::-1], pairs], axis=1).T, axis=0)  # [target, source]
    return np.ascontiguousarray(both.T[::-1], np.int32)
