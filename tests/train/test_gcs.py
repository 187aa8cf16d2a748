"""Runs and token caches in Cloud Storage, against a bucket on loopback: the transport alone is not the real one."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_gcs import Bucket, serving
from hosts_run import losses, quick, send, start, train, wait_for
from tiny_run import Tiny, finish

from pagnol_jax.data import mirror
from pagnol_jax.data.disk import at, cache_root
from pagnol_jax.data.store import open_cache
from pagnol_jax.errors import UserError
from pagnol_jax.train.load import load_run
from pagnol_jax.train.record import Log, RunFolder

pytest.importorskip("gcsfs")
pytestmark = pytest.mark.usefixtures("quick")
__all__ = ["quick"]
SHORT = "--gin.TOTAL_STEPS=24"


class Cloud:
    """A bucket, and the environment that names it. The token cache of the tiny run is under cache/."""

    def __init__(self, bucket: Bucket, environment: dict[str, str], tiny: Tiny, home: Path) -> None:
        self.bucket, self.tiny = bucket, tiny
        self.environment = environment | {"PAGNOL_CACHE": "gs://bucket/cache", "HOME": str(home)}
        for path in (tiny.folder / "cache").rglob("*"):
            if path.is_file():
                bucket.put(f"cache/{path.relative_to(tiny.folder / 'cache')}", path.read_bytes())

    def names(self, prefix: str) -> set[str]:
        return {name.removeprefix(prefix) for name in self.bucket.objects if name.startswith(prefix)}

    def text(self, name: str) -> str:
        return self.bucket.objects[name].content.decode()

    def steps(self, run: str) -> list[int]:
        """Checkpoints that are committed."""
        ends = {name for name in self.names(f"{run}/checkpoints/") if name.count("/") == 1 and "commit_" in name}
        return sorted(int(name.split("/")[0]) for name in ends)


@pytest.fixture(scope="module")
def cloud(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with serving() as (bucket, environment), pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield Cloud(bucket, environment, tiny, tmp_path_factory.mktemp("home"))


def test_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(at("runs/a")) is type(Path("runs/a"))
    with pytest.raises(UserError, match="s3://b/a: only gs:// is known of object stores"):
        at("s3://b/a")
    monkeypatch.setenv("PAGNOL_CACHE", "gs://bucket/cache")
    assert cache_root() == Path.home() / ".cache" / "pagnol_jax"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"gs://b/a: gcsfs is not installed \(extra 'gcs'\)"):
        at("gs://b/a")


def test_every_line_before_a_flush_is_kept(cloud: Cloud) -> None:
    folder = RunFolder("gs://bucket/lines")
    for step in (1, 2):
        log = Log(folder)
        log.write("metrics", "train", {"step": 2 * step})
        log.flush()
        log.write("metrics", "train", {"step": 2 * step + 1})  # and the process is killed
    assert [json.loads(x)["step"] for x in cloud.text("lines/metrics.jsonl").splitlines()] == [2, 4]
    folder.cut_back(3)
    assert cloud.text("lines/metrics.jsonl") == '{"step": 2}\n'


def test_the_last_to_come_keeps_the_folder(cloud: Cloud) -> None:
    """There are no locks: a process whose run was taken over notices before it writes a checkpoint."""
    first, second = RunFolder("gs://bucket/kept"), RunFolder("gs://bucket/kept")
    with first.locked():
        first.keep()
        with second.locked():
            second.keep()
            with pytest.raises(UserError, match=r"has begun to train here, this one ends"):
                first.keep()


@pytest.fixture
def cached(cloud: Cloud) -> Path:
    """A whole token cache on disk; tests that ran before these in the same process may have built more than one."""
    manifests = (cloud.tiny.folder / "cache" / "tokens").glob("*/manifest.json")
    return min(manifests).parent


def test_a_cache_comes_once(cloud: Cloud, cached: Path, tmp_path: Path) -> None:
    """Only what is missing is read, also after a kill; another build replaces the copy."""
    remote = at(f"gs://bucket/cache/tokens/{cached.name}")
    mirror.download(remote, tmp_path / "copy")
    open_cache(tmp_path / "copy").verify()
    shards = sorted(path.name for path in (tmp_path / "copy" / "shards").iterdir())
    (tmp_path / "copy" / "manifest.json").unlink()
    (tmp_path / "copy" / "shards" / shards[0]).write_bytes(b"cut")
    cloud.bucket.reads.clear()
    mirror.download(remote, tmp_path / "copy")
    open_cache(tmp_path / "copy").verify()
    read = {key.rsplit("/", 1)[1] for key in cloud.bucket.reads}
    assert read == {"manifest.json", "tokenizer.json", shards[0]}
    cloud.bucket.reads.clear()
    mirror.download(remote, tmp_path / "copy")
    assert {key.rsplit("/", 1)[1] for key in cloud.bucket.reads} == {"manifest.json"}


def test_a_cache_goes_up_whole(cloud: Cloud, cached: Path, tmp_path: Path) -> None:
    mirror.upload(cached, at("gs://bucket/up/tokens/x"))
    mirror.download(at("gs://bucket/up/tokens/x"), tmp_path / "copy")
    open_cache(tmp_path / "copy").verify()
    mirror.clear(at("gs://bucket/up/tokens/x"), tmp_path / "copy")
    assert not cloud.names("up/")
    assert not (tmp_path / "copy").exists()


def test_a_run_in_the_cloud_is_the_run(cloud: Cloud, tiny: Tiny, tmp_path: Path) -> None:
    """Killed and resumed: the bytes of a run on disk."""
    assert tiny.train(tmp_path / "run", SHORT).status == 0
    process = tiny.start(*tiny.command("gs://bucket/runs/a", SHORT), **cloud.environment)
    wait_for([process], lambda: cloud.steps("runs/a"))
    send([process], signal.SIGKILL, 0)
    finish(process)
    resumed = tiny.train("gs://bucket/runs/a", SHORT, **cloud.environment)
    assert resumed.status == 0, resumed.errors
    assert any(line.startswith("pagnol: a resumes at step ") for line in resumed.errors)
    assert cloud.text("runs/a/metrics.jsonl") == (tmp_path / "run" / "metrics.jsonl").read_text()
    assert cloud.steps("runs/a") == [10, 20, 24]
    config, params, _ = load_run("gs://bucket/runs/a")
    assert (config.num_layers, params["token_embedding"]["embedding"].shape) == (2, (320, 32))
    assert {"config.gin", "run.json", "tokenizer.json", "speed.jsonl", "lock"} <= cloud.names("runs/a/")


@pytest.mark.slow
def test_two_hosts_in_the_cloud_killed_damaged_and_resumed(cloud: Cloud, tiny: Tiny, tmp_path: Path) -> None:
    assert train(tiny, tmp_path / "run", 2)[0].status == 0
    for name in ("cut", "killed"):
        processes = start(tiny, f"gs://bucket/runs/{name}", 2, **cloud.environment)
        wait_for(processes, lambda: 20 in cloud.steps(f"runs/{name}"))  # noqa: B023 - called at once
        send(processes, signal.SIGKILL, 0, 1)
        for process in processes:
            finish(process)
        newest = cloud.steps(f"runs/{name}")[-1]
        assert newest < 60, "the run was over before it was killed"
        if name == "cut":
            state = f"runs/cut/checkpoints/{newest}/state/ocdbt.process_1/d/"
            for victim in cloud.names(state):
                cloud.bucket.put(state + victim, cloud.bucket.objects[state + victim].content[:20])
        results = train(tiny, f"gs://bucket/runs/{name}", 2, **cloud.environment)
        assert [x.status for x in results] == [0, 0], results[0].errors
        told = [line for line in results[0].errors if line.startswith("pagnol: ")]
        assert any("damaged" in line for line in told) == (name == "cut")
        assert bool(cloud.names(f"runs/{name}/damaged/")) == (name == "cut")
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text(cloud.text(f"runs/{name}/metrics.jsonl"))
        assert losses(tmp_path / name) == losses(tmp_path / "run")


@pytest.mark.slow
def test_a_cache_is_built_and_kept_in_the_cloud(cloud: Cloud, tiny: Tiny, tmp_path: Path) -> None:
    """By `pagnol data build`; another machine finds it there, without the corpus."""
    elsewhere: dict[str, Any] = cloud.environment | {"PAGNOL_CACHE": "gs://bucket/other"}
    build = ["data", "build", "--gin_file", tiny.gin, "--workers", 1]
    built = tiny.run(*build, tensorflow=True, **elsewhere | {"HOME": str(tmp_path / "a")})
    assert built.status == 0, built.errors
    assert any(name.endswith("manifest.json") for name in cloud.names("other/tokens/"))
    info = tiny.run("data", "info", "--gin_file", tiny.gin, "--verify", **elsewhere | {"HOME": str(tmp_path / "b")})
    assert info.status == 0, info.errors
    assert info.out.splitlines()[1:] == built.out.splitlines()[1:]
