"""Checkpoints: orbax for writing them, a sum over their bits for trusting them."""

import contextlib
import gc
import inspect
import json
import logging
import re
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath

from pagnol_jax.data.disk import is_remote
from pagnol_jax.errors import UserError
from pagnol_jax.train import hosts

T = TypeVar("T")
LONGEST = 200  # characters of an error message


class Stepped(Protocol):
    """A tree of arrays that counts its updates."""

    @property
    def step(self) -> jax.Array: ...


S = TypeVar("S", bound=Stepped)


class Checkpoints:
    """The checkpoints of a run: saved in the background, committed by a rename, the newest `keep` kept.

    A checkpoint holds the state and a note: its step, what the batches are made from (so that another corpus,
    tokenizer or batch size is noticed), and a checksum per array. The position in the data is the step itself.
    """

    def __init__(self, folder: Path, keep: int = 3) -> None:
        ButAbandonedReads.install()
        self.folder = folder if is_remote(folder) else folder.absolute()
        if hosts.first():
            self.folder.mkdir(parents=True, exist_ok=True)
        hosts.exchange()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            enable_async_checkpointing=True,
            create=False,
            # With the processes named, orbax waits for the other hosts without a program on the devices, which from
            # its threads might meet those of the loop in another order on another host.
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                active_processes=set(range(jax.process_count())) if hosts.several() else None
            ),
        )
        self.manager = ocp.CheckpointManager(self.folder, options=options, item_names=("state", "note"))

    def save(self, state: Stepped, data: dict[str, Any]) -> None:
        """Starts writing `state`; returns when it has left the device. Raises UserError if a save failed."""
        step = int(state.step)
        if step == self.manager.latest_step():
            return
        note = {"step": step, "data": data, "layout": layout(state), "checksums": checksums(state)}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), note=ocp.args.JsonSave(note | {"seal": _seal(note)})
        )
        self._guard(lambda: self.manager.save(step, args=args), step)

    def wait(self) -> None:
        """Returns when all is on disk. Raises UserError if the last save failed."""
        self._guard(self.manager.wait_until_finished, None)

    def close(self) -> None:
        self.manager.close()

    def _guard(self, action: Any, step: int | None) -> None:
        try:
            action()
        except Exception as error:  # tensorstore, OSError and orbax each have their own
            raise UserError(f"a checkpoint could not be written ({one_line(error)}); {self.newest()}") from error

    def newest(self) -> str:
        """What there is to go on from, in words."""
        kept = ocp.utils.checkpoint_steps(self.folder)
        return f"the last good one is step {max(kept)}" if kept else "there is none yet"

    def advice(self) -> str:
        """What the same command would do now, in words."""
        kept = ocp.utils.checkpoint_steps(self.folder)
        return f"the same command goes on from step {max(kept)}" if kept else "the same command starts anew"

    def restore(self, abstract: S) -> tuple[S, dict[str, Any]] | None:
        """The newest checkpoint that is whole, on the shardings of `abstract`, and its note; None if there is none.

        Damaged ones are told on stderr, and moved to `damaged/` beside the folder once an older one is read: if
        none is, the fault may be elsewhere (no memory, no permission), and nothing is touched. Raises UserError
        then, or if they hold another kind of state (another optimiser, say).
        """
        damaged: list[int] = []
        for step in json.loads(hosts.exchange(json.dumps(sorted(self.manager.all_steps(), reverse=True)))[0]):
            restored, why = self._restore(step, abstract)
            if restored is not None:
                self._set_aside(damaged)
                return restored
            damaged.append(step)
            if hosts.first():
                print(f"pagnol: checkpoint {step} is damaged: {why}", file=sys.stderr)
        if damaged:
            raise UserError(f"no checkpoint under {self.folder} can be read; without it the run starts anew")
        return None

    def _restore(self, step: int, abstract: S) -> tuple[tuple[S, dict[str, Any]] | None, str]:
        """A checkpoint, or None and what is wrong with it; the same on every host."""
        note, why = together(lambda: self._note(step))
        if note is None:
            return None, why
        if note["layout"] != layout(abstract):
            raise UserError(f"checkpoint {step} of {self.folder} holds another model or optimiser than configured")
        state, why = together(lambda: self._state(step, abstract))
        if state is None:
            return None, why
        _, why = together(lambda: compare(note["checksums"], checksums(state)))
        return (None if why else (state, note)), why

    def _note(self, step: int) -> dict[str, Any]:
        return verified(json.loads((self.folder / str(step) / "note" / "metadata").read_text(encoding="utf-8")))

    def _state(self, step: int, abstract: S) -> S:
        # Orbax's managers wait for all hosts, and for ever for one whose part is damaged; their handlers do not.
        return ocp.StandardCheckpointHandler().restore(
            epath.Path(self.folder / str(step) / "state"), args=ocp.args.StandardRestore(abstract)
        )

    def _set_aside(self, steps: list[int]) -> None:
        folder = self.folder.parent / "damaged"
        if hosts.first():
            for step in steps:
                folder.mkdir(exist_ok=True)
                if is_remote(folder):  # where a folder is there once something lies in it
                    (folder / ".folder").write_text("")
                earlier, now = epath.Path(self.folder / str(step)), epath.Path(folder / str(step))
                if now.exists():
                    now.rmtree()
                earlier.rename(now)
        hosts.exchange()
        self.manager.reload()


def together(action: Callable[[], T]) -> tuple[T | None, str]:
    """What `action` gives, or None on every host, and what is wrong, if it fails on any of them."""
    result, why = None, ""
    try:
        with quiet_reading():
            result = action()
    except Exception as error:  # whatever orbax, tensorstore or a checksum find wrong with it
        if hosts.lost_by_collective(error):
            raise
        why = one_line(error) or type(error).__name__
    wrong = [(index, told) for index, told in enumerate(hosts.exchange(why)) if told]
    if not wrong:
        return result, ""
    index, told = wrong[0]
    return None, f"host {index}: {told}" if index else told


class ButAbandonedReads:
    """An unraisable hook that passes all on to the hook before it but what orbax's abandoned coroutines complain of.

    Where one array cannot be read or written, orbax closes the loop that the others report to, and each of them
    says so on stderr, from threads of their own and when they like; or is collected unfinished, and says that.
    """

    def __init__(self, before: Callable[[Any], object]) -> None:
        self.before = before

    def __call__(self, unraisable: Any) -> None:
        orphan = inspect.iscoroutine(unraisable.object) and "orbax" in unraisable.object.cr_code.co_filename
        if not orphan and str(unraisable.exc_value) != "Event loop is closed":
            self.before(unraisable)

    @classmethod
    def install(cls) -> None:
        if not isinstance(sys.unraisablehook, cls):
            sys.unraisablehook = cls(sys.unraisablehook)


@contextlib.contextmanager
def quiet_reading() -> Iterator[None]:
    """Where one array cannot be read, what orbax drops of the others is neither logged nor warned of."""
    ButAbandonedReads.install()
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        gc.collect()  # what was dropped complains as it goes
        logging.disable(logging.NOTSET)


@jax.jit
def _sums(tree: Any) -> Any:
    return jax.tree.map(_bit_sum, tree)


@jax.jit
def all_finite(tree: Any) -> jax.Array:
    """Whether no array of a tree holds an infinity or a NaN."""
    return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]).all()


def _bit_sum(x: jax.Array) -> jax.Array:
    """Sum over elements of bits_i * (2 i + 1) mod 2^32: odd weights let no single flipped bit pass, and integer
    sums do not depend on the order, so any mesh gives the same number."""
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)
    index = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):  # a flat index without a reshape, which would gather a sharded array
        index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    return (bits * (2 * index + 1)).sum(dtype=jnp.uint32)


def layout(tree: Any) -> dict[str, str]:
    """{path: dtype and shape} of every array of a tree."""
    return {path: f"{x.dtype}{list(x.shape)}" for path, x in _paths(tree).items()}


def checksums(tree: Any) -> dict[str, int]:
    """{path: 32-bit sum} of every array of a tree, computed where the arrays live."""
    return {path: int(s) for path, s in _paths(jax.device_get(_sums(tree))).items()}


def _paths(tree: Any) -> dict[str, Any]:
    """{path: leaf} of a tree."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def compare(expected: dict[str, int], found: dict[str, int]) -> None:
    """Raises ValueError naming the arrays of `found` whose checksum is not the expected one."""
    wrong = [path for path, value in found.items() if expected.get(path) != value]
    if wrong:
        raise ValueError(f"checksum mismatch in {', '.join(wrong[:3])}{', …' if len(wrong) > 3 else ''}")


def verified(note: dict[str, Any]) -> dict[str, Any]:
    """The note without its seal. Raises ValueError if the seal is not its own."""
    note = dict(note)
    if note.pop("seal", None) != _seal(note):
        raise ValueError("its note was altered")
    return note


def _seal(note: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(note, sort_keys=True).encode())


def one_line(error: BaseException) -> str:
    """What an error came from, in a line short enough for a terminal: the start and the end (the reason) of it."""
    while error.__cause__:
        error = error.__cause__
    line, *_ = str(error).strip().splitlines() or [type(error).__name__]
    line = re.split(r" \[(?:os_error_code|tensorstore_spec)", line)[0]  # there follows all there is to know
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} … {line[-LONGEST // 2 :]}"
