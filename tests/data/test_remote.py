"""TFDS through its own mock; the Hub through the real `datasets`, with only the server replaced."""

import gzip
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlparse

import pytest

from pagnol_jax.data import remote
from pagnol_jax.errors import UserError

WIKI = "\n_START_ARTICLE_\nBrest\n_START_SECTION_\nHistoire\n_START_PARAGRAPH_\nUn port._NEWLINE_Une rade."


def test_wiki40b_markers_become_lines():
    assert remote.wiki40b_text(WIKI) == "Brest\nHistoire\nUn port.\nUne rade."


def test_tfds_through_mock_data():
    import tensorflow_datasets

    from pagnol_jax.data.quiet_tensorflow import tf

    def as_dataset(self, *args, **kwargs):
        return tf.data.Dataset.from_tensor_slices({"text": [WIKI, "Deux"], "wikidata_id": ["a", "b"]})

    with tensorflow_datasets.testing.mock_data(num_examples=2, as_dataset_fn=as_dataset):
        corpus = remote.wiki40b("wiki40b/fr")
        documents = [d for shard in corpus.shards() for d in corpus.read(shard)]
        assert [d.text for d in documents[:2]] == ["Brest\nHistoire\nUn port.\nUne rade.", "Deux"]
        raw = remote.tfds("wiki40b/fr", field="wikidata_id")
        assert next(raw.read(raw.shards()[0])).text == "a"
        with pytest.raises(UserError, match="no text under 'title'"):
            next(remote.tfds("wiki40b/fr", field="title").read(raw.shards()[0]))


def test_tfds_reads_its_own_shards_and_names_its_splits(tmp_path, monkeypatch):
    pytest.importorskip("importlib_resources", reason="TFDS 4.9 needs it on Python 3.11")
    import tensorflow_datasets

    class TinyTexts(tensorflow_datasets.core.GeneratorBasedBuilder):
        VERSION = tensorflow_datasets.core.Version("1.0.0")
        pkg_dir_path = tmp_path  # a class in no package

        def _info(self):
            features = tensorflow_datasets.features.FeaturesDict({"text": tensorflow_datasets.features.Text()})
            return tensorflow_datasets.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(9), "test": self._generate_examples(3)}

        def _generate_examples(self, count=0):
            yield from ((i, {"text": f"texte n° {i}"}) for i in range(count))

    builder = TinyTexts(data_dir=tmp_path)
    config = tensorflow_datasets.download.DownloadConfig(num_shards=3)
    builder.download_and_prepare(download_config=config)
    monkeypatch.setattr(tensorflow_datasets, "builder", lambda name: TinyTexts(data_dir=tmp_path))
    corpus = remote.tfds("tiny_texts")
    assert [shard.parts for shard in corpus.shards()] == [3, 3, 3]
    documents = [d for shard in corpus.shards() for d in corpus.read(shard)]
    assert sorted(d.text for d in documents) == [f"texte n° {i}" for i in range(9)]
    assert len({d.id for d in documents}) == 9
    with pytest.raises(UserError, match=r"no split 'trian'; it has"):
        remote.tfds("tiny_texts", split="trian").shards()


def test_an_unknown_tfds_name_is_one_line():
    with pytest.raises(UserError, match="tfds 'no_such_thing'") as error:
        remote.tfds("no_such_thing").shards()
    assert "\n" not in str(error.value)


FILES = {
    f"data/part-{part}.jsonl.gz": gzip.compress(
        "".join(json.dumps({"text": f"page {part}.{i}"}) + "\n" for i in range(10)).encode()
    )
    for part in range(3)
}
SHA = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as `datasets` asks for, with one data set of three files."""

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        wanted = [path for path in FILES if path.replace("/", "%2F") in body or path in body]
        self.reply([self.entry(path) for path in wanted])

    def do_GET(self):
        path = urlparse(self.path).path
        if "/resolve/" in path:
            name = path.split(f"/resolve/{SHA}/")[-1].split("/resolve/main/")[-1]
            return self.file(FILES[name]) if name in FILES else self.reply({"error": "no file"}, 404, "EntryNotFound")
        if not path.startswith("/api/datasets/pages/fr"):
            return self.reply({"error": "no data set"}, 404, "RepoNotFound")
        if "/tree/" in path:
            folder = path.split("/tree/")[1].partition("/")[2]
            directory = [{"type": "directory", "path": "data", "oid": SHA}] if not folder else []
            return self.reply(
                directory + [self.entry(name) for name in FILES if folder or "recursive=true" in self.path.lower()]
            )
        siblings = [{"rfilename": name} for name in FILES]
        return self.reply({"id": "pages/fr", "sha": SHA, "private": False, "tags": [], "siblings": siblings})

    @staticmethod
    def entry(path):
        return {"type": "file", "path": path, "size": len(FILES[path]), "oid": SHA}

    def reply(self, content, status=200, error=""):
        kind = {"Content-Type": "application/json"} | ({"X-Error-Code": error} if error else {})
        self.send(json.dumps(content).encode(), status, kind)

    def file(self, content):
        status, extra = 200, {"ETag": '"x"', "X-Repo-Commit": SHA, "Accept-Ranges": "bytes"}
        if wanted := self.headers.get("Range"):
            low, _, high = wanted.removeprefix("bytes=").partition("-")
            end = min(int(high or len(content)), len(content) - 1)
            extra["Content-Range"] = f"bytes {low}-{end}/{len(content)}"
            status, content = 206, content[int(low) : end + 1]
        self.send(content, status, extra)

    def send(self, content, status, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@pytest.fixture(scope="module")
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def in_a_process(code, endpoint, home):
    """The Hub's address is read when its library is imported, hence a process of its own."""
    clean = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    environment = clean | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
    code = "from pagnol_jax.data.remote import hub\nfrom pagnol_jax.errors import UserError\n" + code
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_hub_streams_the_files(hub, tmp_path):
    code = """
for limit in (None, 7):
    corpus = hub('pages/fr', max_documents=limit)
    shards = corpus.shards()
    print(len(shards), *sorted(d.text.split()[1] for s in shards for d in corpus.read(s)))
try:
    list(hub('pages/fr', field='body').read(shards[0]))
except UserError as error:
    print(error)
"""
    whole, some, error = in_a_process(code, hub, tmp_path).splitlines()
    assert whole.split() == ["3", *(f"{part}.{i}" for part in range(3) for i in range(10))]
    assert some.split() == ["3", "0.0", "0.1", "0.2", "1.0", "1.1", "2.0", "2.1"]
    assert error == "pages/fr:0:0: no text under 'body'"


def test_an_unknown_hub_name_is_one_line(hub, tmp_path):
    code = """
try:
    hub('pages/de').shards()
except UserError as error:
    print(error)
"""
    (line,) = in_a_process(code, hub, tmp_path).splitlines()
    assert line.startswith("hub 'pages/de': ")
