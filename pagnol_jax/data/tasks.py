"""seqio Tasks and Mixtures over corpora. Importing this imports seqio and TensorFlow (seconds)."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pagnol_jax.data.mixture import Mixture, check, split_corpus, split_texts
from pagnol_jax.data.quiet_tensorflow import seqio, tf
from pagnol_jax.data.readers import Shard
from pagnol_jax.data.seqio_vocabulary import ByteLevelVocabulary
from pagnol_jax.data.store import SPLITS
from pagnol_jax.data.vocabulary import Tokenizer
from pagnol_jax.errors import UserError

DOCUMENTS_AT_ONCE = 32  # tokenised together


class CorpusSource(seqio.DataSource):  # type: ignore[misc]
    """One corpus of a mixture as a seqio source: `text` of each normalised, non-empty document."""

    def __init__(self, mixture: Mixture, corpus: str) -> None:
        super().__init__(splits=SPLITS)
        self.mixture, self.corpus = mixture, corpus
        self.failure: UserError | None = None  # tf.data would show it as a traceback in a string

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return False

    def list_shards(self, split: str) -> list[str]:
        shards = split_corpus(self.mixture, self.corpus, split).shards()
        return [f"{path}:{part}/{parts}" for path, part, parts in shards]

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: Any = None,
        **unused: Any,
    ) -> Any:
        """Documents of every `num_shards`-th shard, in order whatever `shuffle` says (the Task shuffles)."""
        shards = split_corpus(self.mixture, self.corpus, split).shards()
        mine = shards[shard_info.index :: shard_info.num_shards] if shard_info else shards
        signature = {"text": tf.TensorSpec([], tf.string)}
        return tf.data.Dataset.from_generator(lambda: self._examples(split, mine), output_signature=signature)

    def _examples(self, split: str, shards: Sequence[Shard]) -> Iterator[dict[str, bytes]]:
        try:
            for shard in shards:
                for text in split_texts(self.mixture, self.corpus, split, shard):
                    yield {"text": text.encode()}
        except UserError as error:
            self.failure = error
            raise


def tokenise(dataset: Any, vocabulary: ByteLevelVocabulary) -> Any:
    """`text` to `targets` (int32 ids: `<EOS>` between paragraphs, `<SEP>` last) and `bytes` (of the text)."""

    def encode(texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = vocabulary.tokenizer.encode_documents([text.decode() for text in texts])
        lengths = np.array([len(row) for row in rows], np.int64)
        return np.concatenate([np.array(row, np.int32) for row in rows]), lengths

    def batch(example: dict[str, Any]) -> dict[str, Any]:
        ids, lengths = tf.numpy_function(encode, [example["text"]], (tf.int32, tf.int64), stateful=False)
        ids.set_shape([None])
        lengths.set_shape([None])
        targets = tf.RaggedTensor.from_row_lengths(ids, lengths, validate=False)
        return {"targets": targets, "bytes": tf.strings.length(example["text"])}

    return dataset.batch(DOCUMENTS_AT_ONCE).map(batch).unbatch()


def make_task(mixture: Mixture, corpus: str, tokenizer: Tokenizer) -> Any:
    """The seqio Task of one corpus of a mixture: `targets` int32 [T] and `bytes` of each document."""
    vocabulary = ByteLevelVocabulary(tokenizer)
    feature = seqio.Feature(vocabulary, add_eos=False, dtype=tf.int32)
    return seqio.Task(
        seqio_name(f"{mixture.name}_{corpus}"),
        source=CorpusSource(mixture, corpus),
        output_features={"targets": feature},
        shuffle_buffer_size=1000,
        preprocessors=[functools.partial(tokenise, vocabulary=vocabulary)],
    )


def seqio_name(name: str) -> str:
    """A name as seqio allows it."""
    return name.replace("-", "_")


def add_mixture(mixture: Mixture, tokenizer: Tokenizer) -> Any:
    """Registers the mixture and its tasks with seqio, for t5x and others; returns the seqio Mixture."""
    check(mixture)
    tasks = {name: make_task(mixture, name, tokenizer) for name in mixture.corpora}
    for task in tasks.values():
        seqio.TaskRegistry.add_provider(task.name, task)
    rated = [(tasks[name].name, float(rate)) for name, rate in mixture.rates.items()]
    return seqio.MixtureRegistry.add(seqio_name(mixture.name), rated)
