"""Batches from the token cache against seqio's own pre-tokenised TFRecords, one interleaved run.

    python -m benchmarks.batches --gin_file data/literature_encyclopaedia.gin --corpus encyclopaedia

The same tokens are written once as TFRecords in two ways: whole documents, which seqio packs (and cuts at the
length), and windows of T tokens cut beforehand, which fill every slot but cannot tell documents apart.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.machine import describe, save
from pagnol_jax.cli import gin_files
from pagnol_jax.data.batches import MixtureBatches, ahead
from pagnol_jax.data.mixture import Mixture
from pagnol_jax.data.prepare import prepare
from pagnol_jax.data.store import Cache

BATCH, LENGTH, SHARDS = 8, 1024, 4
MOST_TOKENS = 20_000_000


def rows(cache: Cache, corpus: str, windows: bool) -> Iterator[np.ndarray]:
    """Documents of a corpus, or windows of LENGTH tokens."""
    stream = cache.stream(corpus, "train")
    tokens = stream.read(np.array([1]), min(len(stream) - 1, MOST_TOKENS))[0]
    cuts = np.arange(LENGTH, len(tokens), LENGTH) if windows else np.flatnonzero(tokens == cache.sep_id) + 1
    yield from np.split(tokens, cuts)[:-1]


def write_records(folder: Path, name: str, documents: Iterator[np.ndarray]) -> str:
    """TFRecords of `documents` in SHARDS files; returns their pattern."""
    import tensorflow as tf

    writers = [tf.io.TFRecordWriter(str(folder / f"{name}-{shard}.tfrecord")) for shard in range(SHARDS)]
    for number, document in enumerate(documents):
        feature = tf.train.Feature(int64_list=tf.train.Int64List(value=document))
        example = tf.train.Example(features=tf.train.Features(feature={"targets": feature}))
        writers[number % SHARDS].write(example.SerializeToString())
    for writer in writers:
        writer.close()
    return str(folder / f"{name}-*.tfrecord")


def seqio_batches(name: str, pattern: str, vocab_size: int, pack: bool) -> Iterator[np.ndarray]:
    """seqio's pipeline over pre-tokenised records; yields loss weights [BATCH, LENGTH] or, unpacked, tokens."""
    from pagnol_jax.data.quiet_tensorflow import seqio, tf

    ids = tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True)
    seqio.TaskRegistry.add(
        name,
        source=seqio.TFExampleDataSource({"train": pattern}, {"targets": ids}),
        preprocessors=[lambda ds: ds.map(lambda e: {"targets": tf.cast(e["targets"], tf.int32)}, num_parallel_calls=2)],
        output_features={"targets": seqio.Feature(seqio.PassThroughVocabulary(vocab_size), add_eos=False)},
        shuffle_buffer_size=1000,
    )
    task = seqio.get_mixture_or_task(name).get_dataset({"targets": LENGTH}, "train", shuffle=True, num_epochs=None)
    converted = seqio.DecoderFeatureConverter(pack=pack)(task, {"targets": LENGTH})
    for batch in converted.batch(BATCH).prefetch(8).as_numpy_iterator():
        yield batch["decoder_loss_weights"]


def our_batches(batches: MixtureBatches) -> Iterator[np.ndarray]:
    """Our batches, made ahead by a thread as training has them."""
    with ahead(batches.batch) as made:
        for batch in made:
            yield batch.weights


def measure(batches: Iterator[np.ndarray], count: int) -> tuple[float, float]:
    """(tokens/s, slots included; share of slots that hold a token which counts)."""
    start = time.perf_counter()
    filled = [float((next(batches) > 0).mean()) for _ in range(count)]
    return count * BATCH * LENGTH / (time.perf_counter() - start), statistics.mean(filled)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gin_file", action="append", required=True)
    parser.add_argument("--corpus", help="of the mixture (default: its first)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, default=300)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    gin_files.parse(args.gin_file, [], whole=False)
    mixture = gin_files.call(Mixture)
    cache = prepare(mixture)
    corpus = args.corpus or cache.corpora[0]
    with tempfile.TemporaryDirectory() as folder:
        packed = write_records(Path(folder), "documents", rows(cache, corpus, windows=False))
        windows = write_records(Path(folder), "windows", rows(cache, corpus, windows=True))
        ours = MixtureBatches(cache, {corpus: 1.0}, BATCH, LENGTH)
        sources: dict[str, Callable[[], Iterator[np.ndarray]]] = {
            "token cache": lambda: our_batches(ours),
            "seqio, packed": lambda: seqio_batches("documents", packed, cache.vocab_size, pack=True),
            "seqio, windows": lambda: seqio_batches("windows", windows, cache.vocab_size, pack=False),
        }
        open_sources = {name: make() for name, make in sources.items()}
        for batches in open_sources.values():
            measure(batches, 20)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in sources}
        for _ in range(args.rounds):
            for name, batches in open_sources.items():
                found[name].append(measure(batches, args.batches))
    report(found, args.json)


def report(found: dict[str, list[tuple[float, float]]], path: Path | None) -> None:
    """A table of medians on stdout, all rounds in a JSON file."""
    ours = [speed for speed, _ in found["token cache"]]
    print("| batches from | million slots/s | slots filled | our tokens/s over theirs |\n|---|---|---|---|")
    for name, rounds in found.items():
        speeds, filled = zip(*rounds, strict=True)
        ratio = statistics.median(a / b for a, b in zip(ours, speeds, strict=True)) / statistics.mean(filled)
        print(f"| {name} | {statistics.median(speeds) / 1e6:.1f} | {statistics.mean(filled):.1%} | {ratio:.1f} |")
    if path:
        save(path, {"machine": describe(), "rounds": found})


if __name__ == "__main__":
    main()
