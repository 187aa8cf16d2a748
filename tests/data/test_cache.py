"""Building a cache through seqio in worker processes, and what notices that something changed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from pagnol_jax.data import prepare as prepare_module
from pagnol_jax.data.bpe import train_bpe
from pagnol_jax.data.corpora import held_out, jsonl
from pagnol_jax.data.mixture import Mixture, folder_name, tokenizer_file, trained_bpe
from pagnol_jax.data.prepare import open_batches, open_built, prepare
from pagnol_jax.data.store import SPLITS, open_cache
from pagnol_jax.data.vocabulary import normalise
from pagnol_jax.errors import UserError

FILES = 6  # of the corpus `fables`


def fable(number):
    return f"La cigale n° {number}\r\n\nayant chanté {number * 7} étés,\n  se trouva fort dépourvue. " * (
        1 + number % 5
    )


def write_texts(folder):
    folder.mkdir()
    for file in range(FILES):
        lines = [json.dumps({"text": fable(100 * file + i)}) + "\n" for i in range(40)]
        (folder / f"fables{file}.jsonl").write_text("".join(lines) + json.dumps({"text": " \n"}) + "\n")
    for split, numbers in (("train", range(900, 960)), ("valid", range(960, 970))):
        lines = [json.dumps({"text": fable(number)}) + "\n" for number in numbers]
        (folder / f"contes.{split}.jsonl").write_text("".join(lines))


def make_mixture(folder, **changes):
    corpora = {"fables": jsonl(f"{folder}/fables*.jsonl"), "contes": jsonl(f"{folder}/contes.train.jsonl")}
    mixture = Mixture(
        name="test",
        corpora=corpora,
        rates={"fables": 0.75, "contes": 0.25},
        tokenizer=trained_bpe(300),
        validation={"contes": jsonl(f"{folder}/contes.valid.jsonl")},
        holdout=0.1,
    )
    return mixture._replace(**changes)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(texts, cache_dir, cache) built by two processes."""
    root = tmp_path_factory.mktemp("built")
    write_texts(root / "texts")
    return root / "texts", root / "cache", prepare(make_mixture(root / "texts"), root / "cache", workers=2)


@pytest.fixture
def copy(built, tmp_path, monkeypatch):
    """The same in folders that may be damaged, where building is an error."""
    texts, cache_dir, _ = built
    monkeypatch.setattr(prepare_module, "build", lambda *_: pytest.fail("nothing was to be built"))
    shutil.copytree(cache_dir, tmp_path / "cache")
    mixture = make_mixture(texts)
    return mixture, tmp_path / "cache", tmp_path / "cache" / "tokens" / folder_name(mixture)


def read_documents(folder, pattern):
    lines = [line for path in sorted(folder.glob(pattern)) for line in path.read_text().splitlines()]
    texts = [normalise(json.loads(line)["text"]) for line in lines]
    return [text for text in texts if text]


def test_tokens_are_those_of_the_documents(built):
    texts, _, cache = built
    fables = read_documents(texts, "fables*.jsonl")
    splits = {
        ("fables", "train"): [text for text in fables if not held_out(text, 0.1)],
        ("fables", "validation"): [text for text in fables if held_out(text, 0.1)],
        ("contes", "train"): read_documents(texts, "contes.train.jsonl"),
        ("contes", "validation"): read_documents(texts, "contes.valid.jsonl"),
    }
    for (corpus, split), documents in splits.items():
        ids = [id for row in cache.tokenizer.encode_documents(documents) for id in row]
        stream = cache.stream(corpus, split)
        assert stream.read(np.array([0]), len(stream))[0].tolist() == [cache.sep_id, *ids]
        size = (len(documents), len(ids), sum(len(text.encode()) for text in documents))
        assert cache.size(corpus, split) == size
    cache.verify()


def test_windows_across_shards(built):
    stream = built[2].stream("fables", "train")
    whole = stream.read(np.array([0]), len(stream))[0]
    starts = np.arange(0, len(stream) - 700, 97)
    assert np.array_equal(stream.read(starts, 700), np.stack([whole[s : s + 700] for s in starts]))
    with pytest.raises(IndexError):
        stream.read(np.array([len(stream) - 5]), 6)


def test_a_built_cache_opens_at_once_and_without_its_corpora(copy, built, tmp_path):
    mixture, cache_dir, _ = copy
    start = time.perf_counter()
    batches = open_batches(mixture, batch_size=4, length=32, seed=1, cache_dir=cache_dir)
    assert time.perf_counter() - start < 0.5
    assert batches.fingerprint == open_batches(mixture, 4, 32, 1, built[1]).fingerprint
    assert set(batches.corpora_fingerprints) == set(batches.bytes_per_token) == {"fables", "contes"}
    gone = mixture.corpora["fables"]._replace(fingerprint=jsonl(f"{tmp_path}/none/*.jsonl").fingerprint)
    prepare(mixture._replace(corpora={**mixture.corpora, "fables": gone}), cache_dir)


def test_rates_share_a_cache_and_definitions_do_not(copy, tmp_path):
    mixture, cache_dir, _ = copy
    prepare(mixture._replace(rates={"fables": 1, "contes": 5}), cache_dir)
    for change in ({"holdout": 0.2}, {"tokenizer": trained_bpe(301)}, {"validation": {}}):
        with pytest.raises(UserError, match="no token cache"):
            open_built(mixture._replace(**change), cache_dir)


def test_a_changed_corpus_is_noticed(copy, tmp_path):
    mixture, cache_dir, _ = copy
    write_texts(tmp_path / "texts")
    changed = make_mixture(tmp_path / "texts")
    path = tmp_path / "texts" / "fables3.jsonl"
    path.write_text(path.read_text().replace("2121", "2122"))
    elsewhere = {n: c._replace(definition=mixture.corpora[n].definition) for n, c in changed.corpora.items()}
    with pytest.raises(UserError, match=r"the corpus fables changed since .*pagnol data build --overwrite"):
        prepare(mixture._replace(corpora=elsewhere), cache_dir)


def test_damage_is_noticed(copy):
    mixture, cache_dir, folder = copy
    shard = folder / "shards" / "contes.train.00000.bin"
    content = shard.read_bytes()
    shard.write_bytes(content[:-2])
    with pytest.raises(UserError, match=r"contes\.train\.00000\.bin: missing or cut short"):
        prepare(mixture, cache_dir)
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 4]))
    with pytest.raises(UserError, match=r"contes\.train\.00000\.bin: damaged"):
        prepare(mixture, cache_dir).verify()
    train_bpe([fable(3)] * 9, 280).save(folder / "tokenizer.json")
    with pytest.raises(UserError, match="not the tokenizer this cache was built with"):
        _ = prepare(mixture, cache_dir).tokenizer
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"documents": 60', '"documents": 61'))
    with pytest.raises(UserError, match=r"manifest\.json: damaged"):
        prepare(mixture, cache_dir)
    manifest.write_text(manifest.read_text()[:-30])
    with pytest.raises(UserError, match=r"manifest\.json: damaged"):
        prepare(mixture, cache_dir)


def test_a_full_disk_is_one_line(built, tmp_path, monkeypatch):
    def build(*_):
        raise OSError(28, "No space left on device", "shards/a.bin.tmp")

    monkeypatch.setattr(prepare_module, "build", build)
    with pytest.raises(UserError, match=r"a\.bin\.tmp: No space left on device; finished shards are kept"):
        prepare(make_mixture(built[0]), tmp_path)


def test_a_changed_tokenizer_file_is_noticed(copy, built, tmp_path):
    mixture, cache_dir, folder = copy
    recipe = tokenizer_file(str(tmp_path / "tokenizer.json"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sources"]["tokenizer"] = built[2].tokenizer.fingerprint
    moved = folder.with_name(folder_name(mixture._replace(tokenizer=recipe)))
    folder.rename(moved)
    prepare_module.open_cache(moved)
    from pagnol_jax.data.store import save_manifest

    save_manifest(moved, manifest)
    built[2].tokenizer.save(tmp_path / "tokenizer.json")
    prepare(mixture._replace(tokenizer=recipe), cache_dir)
    train_bpe([fable(3)] * 9, 280).save(tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match="the tokenizer changed since"):
        prepare(mixture._replace(tokenizer=recipe), cache_dir)


def test_a_killed_build_goes_on_where_it_stopped(built, tmp_path):
    """SIGKILL once some shards are whole: they stay, and the end is an uninterrupted build's, bit for bit."""
    texts, _, uninterrupted = built
    code = (
        f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})\n"
        "if __name__ == '__main__':\n"
        "    from test_cache import make_mixture, prepare\n"
        f"    prepare(make_mixture({str(texts)!r}), {str(tmp_path)!r}, workers=1)\n"
    )
    script = tmp_path / "build.py"
    script.write_text(code)
    folder = tmp_path / "tokens" / uninterrupted.folder.name
    process = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list(folder.glob("shards/*.json"))) < 3:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("shards/*.json")}
    assert len(kept) >= 3
    assert not (folder / "manifest.json").exists()
    with pytest.raises(UserError, match="not finished"):
        open_cache(folder)
    (folder / "shards" / "fables.train.00005.bin.tmp").write_bytes(b"half")
    cache = prepare(make_mixture(texts), tmp_path, workers=1)
    assert all(path.stat().st_mtime_ns == modified for path, modified in kept.items())
    assert cache.manifest == uninterrupted.manifest
    for corpus in cache.corpora:
        for record in (r for split in SPLITS for r in cache.shards(corpus, split)):
            assert (folder / record["file"]).read_bytes() == (uninterrupted.folder / record["file"]).read_bytes()
    assert not list(folder.rglob("*.tmp"))


def test_a_run_on_a_cache_imports_no_tensorflow_and_no_jax(built):
    texts, cache_dir, _ = built
    code = (
        f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})\n"
        "for name in ('tensorflow', 'seqio', 'jax', 'datasets', 'tensorflow_datasets', 'pyarrow'):\n"
        "    sys.modules[name] = None\n"
        "from test_cache import make_mixture, open_batches\n"
        f"batches = open_batches(make_mixture({str(texts)!r}), 4, 32, 1, {str(cache_dir)!r})\n"
        "print(batches.batch(5).inputs.sum(), len(list(batches.validation('contes'))), batches.fingerprint)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[2] == open_batches(make_mixture(texts), 4, 32, 1, cache_dir).fingerprint
