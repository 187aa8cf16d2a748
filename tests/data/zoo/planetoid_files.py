"""A small data set in the Planetoid format, written as Python 2 wrote it."""

from __future__ import annotations

import io
import pickle
from collections import defaultdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import scipy.sparse

# Where the six names of the format lived.
PLACES = {
    b"numpy._core.multiarray\n_reconstruct": b"numpy.core.multiarray\n_reconstruct",
    b"scipy.sparse._csr\ncsr_matrix": b"scipy.sparse.csr\ncsr_matrix",
}


class _Python2(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Protocol 2 with byte strings, which Python 3 itself writes as a call of a codec."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_bytes(self, value: bytes) -> None:
        self.write(pickle.BINSTRING + len(value).to_bytes(4, "little") + value)
        self.memoize(value)

    dispatch[bytes] = save_bytes


def dumps(value: Any) -> bytes:
    file = io.BytesIO()
    _Python2(file, protocol=2).dump(value)
    text = file.getvalue()
    for here, there in PLACES.items():
        text = text.replace(here, there)
    return text


def write(folder: Path, name: str = "toy") -> tuple[np.ndarray, np.ndarray]:
    """60 nodes of three classes: 12 to train on, 40 known, test nodes 40 to 59 in disorder, without 45 and 51.

    Returns the features [60, 24] and classes [60] that the files hold; a class has eight features of its own.
    """
    random = np.random.default_rng(0)
    labels = np.arange(60) % 3
    features = random.random((60, 24)) < np.where(np.arange(24)[None] // 8 == labels[:, None], 0.5, 0.05)
    features[:, 0] |= ~features.any(1)
    test = random.permutation([node for node in range(40, 60) if node not in (45, 51)])
    features, onehot = features.astype(np.float32), np.eye(3, dtype=np.int32)[labels]
    graph: dict[int, list[int]] = defaultdict(list)
    for node in range(60):
        same = [other for other in range(node % 3, 60, 3) if other not in (node, 45, 51)]
        graph[node] = [] if node in (45, 51) else [int(x) for x in random.choice(same, 3)] + [node]
    parts = {"x": features[:12], "allx": features[:40], "tx": features[test]}
    whole = {part: scipy.sparse.csr_matrix(rows) for part, rows in parts.items()}
    whole |= {"y": onehot[:12], "ally": onehot[:40], "ty": onehot[test], "graph": graph}
    folder.mkdir(parents=True, exist_ok=True)
    for part, value in whole.items():
        (folder / f"ind.{name}.{part}").write_bytes(dumps(value))
    (folder / f"ind.{name}.test.index").write_text("".join(f"{node}\n" for node in test))
    features[[45, 51]], labels[[45, 51]] = 0, 0
    return features, labels
