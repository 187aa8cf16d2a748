"""Mixtures as t5x takes them: seqio tasks of whole windows, and the batches that our loss reads."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pagnol_jax.data.batches import Batch, packed
from pagnol_jax.data.mixture import Mixture
from pagnol_jax.data.prepare import prepare
from pagnol_jax.data.quiet_tensorflow import seqio, tf
from pagnol_jax.data.tasks import make_task, seqio_name
from pagnol_jax.data.vocabulary import Tokenizer

SHUFFLED = 4096  # windows held while shuffling: 32 MB at 1,024 tokens

# Names that t5x knows -> fields of our batches.
BATCH = {
    "decoder_input_tokens": "inputs",
    "decoder_target_tokens": "targets",
    "decoder_segment_ids": "segment_ids",
    "decoder_positions": "positions",
    "decoder_loss_weights": "weights",
}


def tokenizer_file(mixture: Mixture) -> Path:
    """The tokenizer that `pagnol train` gives the mixture; builds its token cache if need be."""
    return prepare(mixture).folder / "tokenizer.json"


def registered(mixture: Mixture) -> str:
    """Registers the mixture's windows with seqio, once; returns the name that t5x's `DatasetConfig` takes."""
    name = seqio_name(f"{mixture.name}_windows")
    if name not in seqio.MixtureRegistry.names():
        tokenizer = Tokenizer.load(tokenizer_file(mixture))
        tasks = {corpus: windows_task(mixture, corpus, tokenizer) for corpus in mixture.corpora}
        for task in tasks.values():
            seqio.TaskRegistry.add_provider(task.name, task)
        seqio.MixtureRegistry.add(name, [(tasks[corpus].name, float(r)) for corpus, r in mixture.rates.items()])
    return name


def windows_task(mixture: Mixture, corpus: str, tokenizer: Tokenizer) -> Any:
    """`tasks.make_task` with its documents laid end to end and cut: `inputs` and `targets`, both int32 [T].

    So a mixture's rates are shares of windows, as in `MixtureBatches`.
    """
    documents = make_task(mixture, corpus, tokenizer)
    feature = documents.output_features["targets"]
    return seqio.Task(
        f"{documents.name}_windows",
        source=documents.source,
        output_features={"inputs": feature, "targets": feature},
        shuffle_buffer_size=SHUFFLED,
        preprocessors=[*documents.preprocessors, functools.partial(windows, sep_id=tokenizer.sep_id)],
    )


def windows(dataset: Any, sequence_length: Mapping[str, int], sep_id: int) -> Any:
    """`targets` of documents to `inputs` and `targets` [T] of windows; what does not fill the last one is left out.

    Every token is a target once: the stream opens with `<SEP>`, and a window's last target is the next one's first
    input. seqio's own packing would cut each document to T and leave slots empty.
    """
    length = sequence_length["targets"]

    def cut(rest: Any, document: Any) -> Any:
        stream = tf.concat([rest, document["targets"]], axis=0)
        whole = (tf.size(stream) - 1) // length * length
        inputs, targets = stream[:whole], stream[1 : whole + 1]
        rows = {"inputs": tf.reshape(inputs, [-1, length]), "targets": tf.reshape(targets, [-1, length])}
        return stream[whole:], rows

    return dataset.scan(tf.constant([sep_id], tf.int32), cut).unbatch()


class Windows(seqio.FeatureConverter):  # type: ignore[misc]
    """Windows to model features: segments and positions as in `data.batches.packed`. Nothing is left to pack."""

    TASK_FEATURES: ClassVar = {name: seqio.FeatureConverter.FeatureSpec(tf.int32) for name in ("inputs", "targets")}
    MODEL_FEATURES: ClassVar = {
        name: seqio.FeatureConverter.FeatureSpec(tf.float32 if field == "weights" else tf.int32)
        for name, field in BATCH.items()
    }
    PACKING_FEATURE_DTYPES: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, sep_id: int, **options: Any) -> None:
        super().__init__(**options)
        self.sep_id = sep_id

    def _convert_features(self, ds: Any, task_feature_lengths: Mapping[str, int]) -> Any:
        def arrays(inputs: np.ndarray, targets: np.ndarray) -> list[np.ndarray]:
            batch = packed(np.append(inputs, targets[-1:])[None], self.sep_id)
            return [getattr(batch, field)[0] for field in BATCH.values()]

        def convert(window: Mapping[str, Any]) -> dict[str, Any]:
            dtypes = [spec.dtype for spec in self.MODEL_FEATURES.values()]
            found = tf.numpy_function(arrays, [window["inputs"], window["targets"]], dtypes, stateful=False)
            length = task_feature_lengths["targets"]
            return {name: tf.ensure_shape(array, [length]) for name, array in zip(BATCH, found, strict=True)}

        return ds.map(convert, num_parallel_calls=tf.data.AUTOTUNE)

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> dict[str, int]:
        """Every feature is as long as a window."""
        return dict.fromkeys(BATCH, task_feature_lengths["targets"])


def as_batch(features: Mapping[str, Any]) -> Batch:
    """t5x's dictionary as the batch that `pagnol train` knows, arrays [B, T]."""
    return Batch(**{field: features[name] for name, field in BATCH.items()})
