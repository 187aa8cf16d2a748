"""The seqio side, in this process: vocabulary, tasks, mixtures. (Imports TensorFlow.)"""

import json

import numpy as np
import pytest

from pagnol_jax.data.bpe import train_bpe
from pagnol_jax.data.cache_worker import Job, build_shard
from pagnol_jax.data.corpora import jsonl
from pagnol_jax.data.mixture import Mixture, trained_bpe
from pagnol_jax.errors import UserError

TEXTS = [f"Il était {i} fois\nune fée, {i} fées…" for i in range(50)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(TEXTS, 290)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for name in ("a", "b"):
        lines = [json.dumps({"text": f"{name} {text}\r\n\n"}) + "\n" for text in TEXTS]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    corpora = {name: jsonl(f"{folder}/{name}.jsonl") for name in ("a", "b")}
    return Mixture("mixed-up", corpora, {"a": 0.8, "b": 0.2}, trained_bpe(290), {}, 0.2)


@pytest.fixture(scope="module")
def tf():
    from pagnol_jax.data.quiet_tensorflow import tf

    return tf


@pytest.fixture(scope="module")
def vocabulary(tokenizer):
    from pagnol_jax.data.seqio_vocabulary import ByteLevelVocabulary

    return ByteLevelVocabulary(tokenizer)


def test_vocabulary_eager_and_in_a_graph(tf, vocabulary, tokenizer):
    text = "une fée\n<SEP> 🙂"
    expected = tokenizer.encode(text)
    assert vocabulary.encode(text) == expected
    assert vocabulary.encode_tf(tf.constant(text)).numpy().tolist() == expected
    assert tf.function(vocabulary.encode_tf)(tf.constant(text)).numpy().tolist() == expected
    mapped = tf.data.Dataset.from_tensor_slices([text, ""]).map(vocabulary.encode_tf)
    assert [ids.tolist() for ids in mapped.as_numpy_iterator()] == [expected, []]


def test_vocabulary_decodes(tf, vocabulary, tokenizer):
    text = "une fée\nla forêt"
    ids = [*tokenizer.encode(text), tokenizer.sep_id, 50, 60]
    assert vocabulary.decode(ids) == text
    assert vocabulary.decode_tf(tf.constant(ids)).numpy().decode() == text
    rows = tf.function(vocabulary.decode_tf)(tf.constant([ids, ids])).numpy()
    assert [row.decode() for row in rows] == [text, text]
    assert (vocabulary.vocab_size, vocabulary.pad_id, vocabulary.eos_id) == (290, 0, tokenizer.sep_id)
    assert vocabulary.unk_id is None
    assert vocabulary == type(vocabulary)(tokenizer) != type(vocabulary)(train_bpe(TEXTS, 289))


def test_task_gives_documents_by_split_and_shard(mixture, tokenizer, tf):
    import seqio

    from pagnol_jax.data.tasks import make_task

    task = make_task(mixture, "a", tokenizer)
    found = {}
    for split in ("train", "validation"):
        examples = list(task.get_dataset(None, split=split, shuffle=False).as_numpy_iterator())
        texts = [tokenizer.decode(example["targets"]) for example in examples]
        assert all(example["targets"][-1] == tokenizer.sep_id for example in examples)
        assert all(example["targets"].dtype == np.int32 for example in examples)
        assert [int(example["bytes"]) for example in examples] == [len(text.encode()) for text in texts]
        found[split] = texts
    assert sorted(found["train"] + found["validation"]) == sorted(f"a {text}" for text in TEXTS)
    assert 2 < len(found["validation"]) < 20
    half = task.get_dataset(None, split="train", shuffle=False, shard_info=seqio.ShardInfo(1, 2))
    rest = task.get_dataset(None, split="train", shuffle=False, shard_info=seqio.ShardInfo(0, 2))
    assert len(list(half)) + len(list(rest)) == len(found["train"])


def test_mixture_in_seqio_has_its_rates(mixture, tokenizer):
    import seqio

    from pagnol_jax.data.tasks import add_mixture

    added = add_mixture(mixture, tokenizer)
    assert seqio.get_mixture_or_task("mixed_up") is added
    dataset = added.get_dataset({"targets": 64}, split="train", shuffle=True, seed=0, num_epochs=None)
    names = [tokenizer.decode(e["targets"])[0] for e in dataset.take(1000).as_numpy_iterator()]
    assert abs(names.count("a") / 1000 - 0.8) < 0.05


def test_a_bad_line_in_a_worker_is_one_clear_line(mixture, tokenizer, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "bon"}\n{"tex": "mauvais"}\n')
    bad = mixture._replace(corpora={"a": jsonl(str(path))}, rates={"a": 1.0})
    (tmp_path / "shards").mkdir()
    tokenizer.save(tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match=r"bad\.jsonl:2: no text under 'text'"):
        build_shard(Job(bad, "a", "train", 0, 1, tmp_path, tokenizer.fingerprint, "<u2"))
    assert not list((tmp_path / "shards").glob("*.json"))


def test_tensorflow_sees_no_accelerator(tf):
    assert tf.config.get_visible_devices("GPU") == []
