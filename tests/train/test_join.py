"""How processes find each other, or say in one line why they do not."""

import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hosts_run import ends, flags, free_port, quick, within
from tiny_run import ROOT, Tiny

from pagnol_jax.cli.main import main
from pagnol_jax.errors import UserError
from pagnol_jax.train.hosts import join
from pagnol_jax.train.hosts.join import Place, place
from pagnol_jax.train.hosts.link import Link

pytestmark = pytest.mark.usefixtures("quick")
__all__ = ["quick"]


@pytest.fixture(autouse=True)
def no_tpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join.glob, "glob", lambda _: [])


def test_places() -> None:
    assert place(None, None, None) is None
    assert place("h:12", 4, 3) == Place("h", 12, 3, 4)
    assert place("[::1]:12", 1, 0) == Place("::1", 12, 0, 1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("h:1", 4, None), "--process_id missing: several hosts need --coordinator, --num_processes, --process_id"),
        ((None, 4, 0), "--coordinator missing"),
        (("h", 4, 0), "--coordinator 'h' is not HOST:PORT"),
        (("h:99999", 4, 0), "is not HOST:PORT"),
        (("h:1", 4, 4), "--process_id 4 is not one of 0 to 3"),
        (("h:1", 0, 0), "--process_id 0 is not one of"),
    ],
)
def test_no_such_place(given: tuple[str | None, int | None, int | None], said: str) -> None:
    with pytest.raises(UserError, match=said):
        place(*given)


@pytest.mark.parametrize("command", ["train", "ladder"])
def test_flags_are_checked_first(command: str, capsys: pytest.CaptureFixture) -> None:
    assert main([command, "--gin_file", "none.gin", "--process_id", "1"]) == 2
    told = "pagnol: error: --coordinator and --num_processes missing: several hosts need "
    assert capsys.readouterr().err.startswith(told)


ATTRIBUTES = {
    "agent-worker-number": "2",
    "worker-network-endpoints": "a:1:10.0.0.5,b:2:10.0.0.6,c:3:10.0.0.7,d:4:10.0.0.8",
    "tpu-env": "ACCELERATOR_TYPE: 'v4-32'\n",
}


class Metadata(http.server.BaseHTTPRequestHandler):
    """The metadata server of a TPU VM."""

    def do_GET(self) -> None:
        content = ATTRIBUTES.get(self.path.rsplit("/", 1)[1])
        self.send_response(200 if content else 404)
        self.end_headers()
        self.wfile.write((content or "").encode())

    def log_message(self, *_: object) -> None: ...


@contextmanager
def metadata_server() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize("workers", [1, 4])
def test_a_tpu_pod_knows_its_hosts(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    """From the metadata server of its VMs; a TPU VM of its own is a process alone."""
    from jax._src.clusters import cloud_tpu_cluster, cluster

    chips = ["/dev/accel0"]
    endpoints = ",".join(ATTRIBUTES["worker-network-endpoints"].split(",")[:workers])
    monkeypatch.setitem(ATTRIBUTES, "worker-network-endpoints", endpoints)
    monkeypatch.setattr(join.glob, "glob", lambda pattern: chips if "accel" in pattern else [])
    for module in (cloud_tpu_cluster, cluster):
        monkeypatch.setattr(module, "running_in_cloud_tpu_vm", True)
    for name in ("TPU_SKIP_MDS_QUERY", "JAX_PLATFORMS", "TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES"):
        monkeypatch.delenv(name, raising=False)
    with metadata_server() as address:
        monkeypatch.setenv("GCE_METADATA_IP", address)
        assert place(None, None, None) == (Place("10.0.0.5", 8482, 2, 4) if workers > 1 else None)
        monkeypatch.setenv("JAX_PLATFORMS", "cpu")
        assert place(None, None, None) is None


HURRIED = """
import sys
from pagnol_jax.train.hosts import join
join.START = 3.0
from pagnol_jax.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


# As one that compiles for a minute after the others: gloo's own limits are half of that.
LATE = """
import sys, time
from pagnol_jax.train.hosts import join
def late():
    from pagnol_jax.train import rows
    put = rows.Rows.put
    def once(self, batch):
        rows.Rows.put = put
        time.sleep(45)
        return put(self, batch)
    rows.Rows.put = once
start = join._start_jax
join._start_jax = lambda *here: (start(*here), late())
from pagnol_jax.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def scripted(tiny: Tiny, script: str, *arguments: object) -> subprocess.Popen[str]:
    """A process whose `pagnol` a script has changed."""
    environment = os.environ | {
        "PAGNOL_CACHE": str(tiny.folder / "cache"),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(tiny.folder / "shim")]),
    }
    command = [sys.executable, "-c", script, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=tiny.folder, text=True, env=environment, stdout=pipe, stderr=pipe)


def hurried(tiny: Tiny, processes: int, process: int, port: int) -> subprocess.Popen[str]:
    """A process that waits for the others for three seconds only."""
    return scripted(tiny, HURRIED, *tiny.command("hurried", *flags(processes, process, port)))


def test_a_coordinator_that_never_answers(tiny: Tiny) -> None:
    port = free_port()
    with within(240):
        (result,) = ends([hurried(tiny, 2, 1, port)])
    told = f"pagnol: error: the coordinator 127.0.0.1:{port}: no answer within 3 s"
    assert (result.status, result.errors) == (75, [told])


def test_a_host_that_never_comes(tiny: Tiny) -> None:
    port = free_port()
    with within(240):
        results = ends([hurried(tiny, 4, process, port) for process in (0, 2)])
    told = "pagnol: error: hosts 1, 3 of 4 did not come within 3 s"
    assert [(x.status, x.errors) for x in results] == [(75, [told])] * 2


def test_another_count_is_refused(tiny: Tiny) -> None:
    port = free_port()
    with within(240):
        results = ends([hurried(tiny, 2, 0, port), hurried(tiny, 3, 1, port)])
    assert [x.status for x in results] == [75, 2]
    assert results[0].errors == ["pagnol: error: host 1 of 2 did not come within 3 s"]
    assert results[1].errors == ["pagnol: error: --num_processes is 3 here and 2 on host 0"]


def test_other_settings_on_one_host(tiny: Tiny, tmp_path: Path) -> None:
    port = free_port()
    run_dir = tmp_path / "run"
    processes = [
        tiny.start(*tiny.command(run_dir, f"--gin.TOTAL_STEPS={20 + process}", *flags(2, process, port)))
        for process in range(2)
    ]
    with within(240):
        results = ends(processes)
    told = "pagnol: error: host 1 was started with another total_steps than host 0"
    assert [(x.status, x.errors) for x in results] == [(2, [told]), (2, [])]
    assert not run_dir.exists()


def test_one_host_alone_has_bad_input(tiny: Tiny, tmp_path: Path) -> None:
    """Process 0 tells it for it."""
    port = free_port()
    processes = [
        tiny.start(*tiny.command(tmp_path / "run", *more, *flags(2, process, port)))
        for process, more in enumerate([[], ["--gin.NO_SUCH=1"]])
    ]
    with within(240):
        results = ends(processes)
    assert [x.status for x in results] == [2, 2]
    assert results[1].errors == []
    (told,) = results[0].errors
    assert told.startswith("pagnol: error: host 1 of 2 (")
    assert told.endswith("): gin: unknown name NO_SUCH: nothing here uses it")


@pytest.mark.slow
def test_a_slow_host_is_no_lost_one(tiny: Tiny, tmp_path: Path) -> None:
    port = free_port()
    command = tiny.command(tmp_path / "run", "--gin.TOTAL_STEPS=12")
    script = "import sys; from pagnol_jax.cli.main import main; sys.exit(main(sys.argv[1:]))"
    processes = [scripted(tiny, x, *command, *flags(2, i, port)) for i, x in enumerate((LATE, script))]
    begin = time.monotonic()
    assert [(x.status, x.errors) for x in ends(processes)] == [(0, []), (0, [])]
    assert time.monotonic() - begin > 45


@pytest.mark.slow
def test_a_ladder_on_two_hosts(tiny: Tiny, tmp_path: Path) -> None:
    rungs = "--gin.RUNGS={'d16': ['config.GPTConfig.d_model = 16'], 'd32': ['config.GPTConfig.d_model = 32']}"
    port = free_port()
    ladder = ["ladder", "--gin_file", tiny.gin, "--output", tmp_path / "out", "--gin.TOTAL_STEPS=12", rungs]
    results = ends([tiny.start(*ladder, *flags(2, process, port)) for process in range(2)])
    assert [x.status for x in results] == [0, 0]
    assert all((tmp_path / "out" / name / "checkpoints" / "12").is_dir() for name in ("d16", "d32"))


def test_what_hosts_say_may_be_long() -> None:
    """Four links in one process, and messages longer than a stream's usual limit."""
    port = free_port()
    with ThreadPoolExecutor(4) as pool:
        links = list(pool.map(lambda process: Link("127.0.0.1", port, process, 4, 30.0), range(4)))
        assert len({link.joined.result(30) for link in links}) == 4
        for turn in range(3):
            said = [f"{turn} {process} " + "é" * 100_000 for process in range(4)]
            heard = list(pool.map(lambda link, text: link.exchange(text), links, said))
            assert heard == [said] * 4
        for link in links:
            link.leaving = True
        list(pool.map(Link.leave, links))
    assert links[0].hub is not None
    assert links[0].hub.gone == {0, 1, 2, 3}
