"""A small token cache written without seqio: two corpora that can be told apart."""

import json

import numpy as np

from pagnol_jax.data.bpe import train_bpe
from pagnol_jax.data.store import FORMAT, file_checksum, open_cache, save_manifest

SEP = 2


def write_cache(folder, documents, dtype="<u2"):
    """documents: {corpus: {split: [shards of [documents of token ids]]}}."""
    (folder / "shards").mkdir(parents=True)
    tokenizer = train_bpe(["une fée"], 262)
    tokenizer.save(folder / "tokenizer.json")
    corpora = {}
    for corpus, splits in documents.items():
        corpora[corpus] = {"splits": {split: [] for split in splits}}
        for split, shards in splits.items():
            for number, shard in enumerate(shards):
                file = f"shards/{corpus}.{split}.{number:05d}.bin"
                ids = np.array([id for document in shard for id in [*document, SEP]], dtype)
                ids.tofile(folder / file)
                sizes = {"documents": len(shard), "tokens": len(ids), "bytes": 4 * len(ids)}
                record = {"file": file, **sizes, "checksum": file_checksum(folder / file)}
                corpora[corpus]["splits"][split].append(record)
    special = {"pad_id": 0, "eos_id": 1, "sep_id": SEP}
    manifest = {
        "name": "toy",
        "definition": {"format": FORMAT},
        "sources": {f"corpus {corpus}": "0" for corpus in corpora},
        "dtype": dtype,
        "tokenizer": {"fingerprint": tokenizer.fingerprint, "vocab_size": 262, **special},
        "corpora": corpora,
    }
    save_manifest(folder, json.loads(json.dumps(manifest)))
    return open_cache(folder)


def toy_documents(seed=0):
    """Two corpora; every token of `a` is even and of `b` odd (from 10 on), so that they can be told apart."""
    rng = np.random.default_rng(seed)

    def documents(count, odd):
        return [(10 + 2 * rng.integers(0, 100, rng.integers(1, 40)) + odd).tolist() for _ in range(count)]

    return {
        "a": {
            "train": [documents(60, 0), [], documents(1, 0), documents(40, 0)],
            "validation": [documents(9, 0)],
        },
        "b": {"train": [documents(30, 1)], "validation": [documents(2, 1), documents(3, 1)]},
    }


def stream_of(documents, corpus, split):
    """The tokens of a split end to end, with the leading separator."""
    return [SEP] + [id for shard in documents[corpus][split] for document in shard for id in [*document, SEP]]
