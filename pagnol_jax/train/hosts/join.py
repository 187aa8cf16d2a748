"""Opening and closing a run of many hosts; what every part of the package may ask."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

from pagnol_jax.errors import UserError
from pagnol_jax.train.hosts.link import BAD_INPUT, Link
from pagnol_jax.train.hosts.wire import SILENCE, START

T = TypeVar("T")
NEVER = 24 * 3600  # seconds: the link's own signs of life are closer than those of jax's coordination service


class Place(NamedTuple):
    """Where a process stands: number `process` of `processes`, of which the first listens at `host`:`port`."""

    host: str
    port: int
    process: int
    processes: int


class _Here:
    link: Link | None = None  # None: a process alone


def place(coordinator: str | None, num_processes: int | None, process_id: int | None) -> Place | None:
    """The place that the command line names, or that a TPU pod knows of itself; None for a process alone.

    Raises UserError for a place that there is not.
    """
    given = {"--coordinator": coordinator, "--num_processes": num_processes, "--process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return on_tpu_pod()
    if missing or coordinator is None or num_processes is None or process_id is None:
        raise UserError(f"{' and '.join(missing)} missing: several hosts need {', '.join(given)}")
    address = re.fullmatch(r"\[?([^\[\]]+?)\]?:(\d{1,5})", coordinator)
    if not address or not 0 < int(address[2]) < 1 << 16:
        raise UserError(f"--coordinator {coordinator!r} is not HOST:PORT")
    if not 0 <= process_id < num_processes:
        raise UserError(f"--process_id {process_id} is not one of 0 to {num_processes - 1} (--num_processes)")
    return Place(address[1], int(address[2]), process_id, num_processes)


def on_tpu_pod() -> Place | None:
    """The place that the metadata of a TPU VM name; None on other machines and on a TPU VM of its own."""
    if "tpu" not in os.environ.get("JAX_PLATFORMS", "tpu") or not tpu_chips():
        return None
    from jax._src.clusters import ClusterEnv

    try:
        found = ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, int(START))
    except Exception:  # no metadata server: requests, sockets and jax each have their own
        return None
    address, count, index, _ = found
    if address is None or count is None or index is None or count == 1:
        return None
    host, _, port = address.rpartition(":")
    return Place(host, int(port), index, count)


def tpu_chips() -> list[str]:
    """The device files of this machine's TPU chips."""
    return glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*")


@contextlib.contextmanager
def joined(here: Place | None) -> Iterator[None]:
    """Around a command: joins the processes of a run, and ends them together, however one of them ends.

    Call it before anything asks jax for a device. An error in here, a host that is lost, or one that never comes
    end the process with os._exit, after one line on stderr: 2 for bad input, told by process 0; wire.RETRY for what
    the same command may mend. The process whose error it is keeps its traceback and exits with 1.
    """
    if here is None:
        yield
        return
    _Here.link = link = Link(*here, START)
    _start_jax(here, link.joined.result())
    try:
        yield
        link.exchange("")  # else a process that is done would look lost
    except (UserError, OSError) as error:
        time.sleep(_patience(error))  # in which the link may end the process
        line = str(error) if isinstance(error, UserError) else f"{error.strerror or error}: {error.filename}"
        link.end(BAD_INPUT, line if here.process == 0 else f"{link.called}: {line}")
    except BaseException as error:
        _fail(link, error)
    link.leaving = True
    import jax

    jax.distributed.shutdown()
    link.leave()
    _Here.link = None


def _start_jax(here: Place, port: int) -> None:
    """Joins jax's own coordination service, of which process 0 runs the server, at a local port."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what matters is told by the link
    if not tpu_chips():  # CPUs give up a collective after half a minute: a host may compile or write for longer
        patience = (f"--xla_cpu_collective_{kind}_seconds={NEVER}" for kind in ("timeout", "call_terminate_timeout"))
        os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *patience])
    os.environ["no_grpc_proxy"] = "127.0.0.1"  # noqa: SIM112 - its name
    import logging

    import jax

    logging.getLogger("jax._src.distributed").setLevel(logging.CRITICAL)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # signals are the loop's own business
    jax.distributed.initialize(
        f"127.0.0.1:{port}",
        here.processes,
        here.process,
        cluster_detection_method="deactivate",
        coordinator_bind_address=f"127.0.0.1:{port}",
        heartbeat_timeout_seconds=NEVER,
        initialization_timeout=int(START),
    )


def _fail(link: Link, error: BaseException) -> None:
    """Ends the process with the traceback of its own error, unless a lost host is what is behind it."""
    time.sleep(_patience(error))  # in which the link may end the process
    link.fail(error)
    if isinstance(error, KeyboardInterrupt):
        os._exit(130)
    traceback.print_exception(error)
    sys.stderr.flush()
    os._exit(1)


def _patience(error: BaseException) -> float:
    """Seconds for the hub to find that a lost host is behind an error: a dead process is seen at once."""
    return SILENCE + 5 if lost_by_collective(error) else 1.0


def lost_by_collective(error: BaseException | None) -> bool:
    """Whether an error comes from talking to other hosts, of which one may be lost."""
    if _Here.link is None:
        return False
    import jax

    while error and not isinstance(error, jax.errors.JaxRuntimeError):
        error = error.__cause__ or error.__context__
    return error is not None


def several() -> bool:
    """Whether there are other processes in this run."""
    return _Here.link is not None


def first() -> bool:
    """Whether this process is the one that writes and tells."""
    return _Here.link is None or _Here.link.index == 0


def exchange(value: str = "") -> list[str]:
    """What each process says at this point of the program, by index: returns once all have, so it is a barrier."""
    return [value] if _Here.link is None else _Here.link.exchange(value)


def first_before_others(action: Callable[[], T]) -> T:
    """What `action` gives on each host; the others begin once the first is done."""
    if first():
        result = action()
        exchange()
        return result
    exchange()
    return action()


def same(what: dict[str, Any]) -> None:
    """Raises UserError where hosts were started with different settings, naming these."""
    said = {key: digest(json.dumps(value, sort_keys=True)) for key, value in what.items()}
    ours, *others = (json.loads(text) for text in exchange(json.dumps(said)))
    for index, other in enumerate(others, start=1):
        if different := sorted(key for key in ours if ours[key] != other.get(key)):
            raise UserError(f"host {index} was started with another {' and '.join(different)} than host 0")


def digest(text: str) -> str:
    """A few characters that say whether two hosts have the same text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def on_loss(advice: Callable[[], str]) -> None:
    """What to tell when a host is lost: called then, in another thread."""
    if _Here.link is not None:
        _Here.link.advice, _Here.link.bar = advice, first()
