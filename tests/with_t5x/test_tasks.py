"""Windows through seqio, against the token stream of `pagnol train`. (seqio, not t5x.)"""

import functools
import json

import numpy as np
import pytest

from pagnol_jax.data.bpe import train_bpe
from pagnol_jax.data.corpora import jsonl
from pagnol_jax.data.mixture import Mixture, trained_bpe

LENGTH = 16
TEXTS = [f"Il était {i} fois\nune fée, {i} fées…" for i in range(60)]
LENGTHS = {"inputs": LENGTH, "targets": LENGTH}


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    folder = tmp_path_factory.mktemp("texts")
    for name in ("a", "b"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": f"{name} {x}"}) + "\n" for x in TEXTS))
    corpora = {name: jsonl(f"{folder}/{name}.jsonl") for name in ("a", "b")}
    return Mixture("window-mix", corpora, {"a": 0.75, "b": 0.25}, trained_bpe(290), {}, 0.2)


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(TEXTS, 290)


def test_windows_cut_the_stream_of_documents(mixture: Mixture, tokenizer) -> None:
    """Every token is a target once, as in a token cache, but for the tail that fills no window."""
    from pagnol_jax.data.tasks import make_task
    from pagnol_jax.with_t5x.tasks import windows_task

    documents = make_task(mixture, "a", tokenizer).get_dataset(None, split="train", shuffle=False)
    task = windows_task(mixture, "a", tokenizer)
    rows = list(task.get_dataset(LENGTHS, split="train", shuffle=False).as_numpy_iterator())
    stream = np.concatenate([[tokenizer.sep_id], *(x["targets"] for x in documents.as_numpy_iterator())])
    whole = (len(stream) - 1) // LENGTH * LENGTH
    assert len(rows) == whole // LENGTH > 20
    np.testing.assert_array_equal(np.concatenate([row["inputs"] for row in rows]), stream[:whole])
    np.testing.assert_array_equal(np.concatenate([row["targets"] for row in rows]), stream[1 : whole + 1])


def test_features_are_a_batch_of_ours(mixture: Mixture, tokenizer) -> None:
    import seqio

    from pagnol_jax.data.batches import packed
    from pagnol_jax.with_t5x.tasks import Windows, as_batch, windows_task

    task = windows_task(mixture, "b", tokenizer)
    seqio.TaskRegistry.add_provider(task.name, task)
    converter = functools.partial(Windows, tokenizer.sep_id)(pack=True, use_custom_packing_ops=False)
    windows = seqio.get_dataset(task.name, LENGTHS, converter, "train", shuffle=False, batch_size=8)
    batch = as_batch(next(windows.as_numpy_iterator()))
    for found, expected in zip(
        batch, packed(np.c_[batch.inputs, batch.targets[:, -1:]], tokenizer.sep_id), strict=True
    ):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    assert batch.segment_ids.max() > 1


def test_registered_once_with_its_rates_as_shares_of_windows(mixture: Mixture, tokenizer, tmp_path, monkeypatch):
    import seqio

    from pagnol_jax.with_t5x import tasks

    tokenizer.save(tmp_path / "tokenizer.json")
    monkeypatch.setattr(tasks, "tokenizer_file", lambda mixture: tmp_path / "tokenizer.json")
    name = tasks.registered(mixture._replace(name="mix-of-rates"))
    assert name == tasks.registered(mixture._replace(name="mix-of-rates")) == "mix_of_rates_windows"
    found = seqio.get_mixture_or_task(name)
    dataset = found.get_dataset(LENGTHS, split="train", shuffle=False, num_epochs=None)
    rows = [tokenizer.decode(row["targets"]) for row in dataset.take(400).as_numpy_iterator()]
    only_a = sum("a Il" in row for row in rows)
    assert only_a / sum("a Il" in row or "b Il" in row for row in rows) == pytest.approx(0.75, abs=0.08)
