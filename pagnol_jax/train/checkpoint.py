"""Checkpoints: orbax for writing them, a sum over their bits for trusting them."""

import json
import shutil
import sys
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from pagnol_jax.errors import UserError
from pagnol_jax.train.step import State


class Checkpoints:
    """The checkpoints of a run: saved in the background, committed by a rename, the newest `keep` kept.

    A checkpoint holds the state and a note: its step, what the batches are made from (so that another corpus,
    tokenizer or batch size is noticed), and a checksum per array. The position in the data is the step itself.
    """

    def __init__(self, folder: Path, keep: int = 3) -> None:
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True, create=True)
        self.folder = folder.absolute()
        self.manager = ocp.CheckpointManager(self.folder, options=options, item_names=("state", "note"))

    def save(self, state: State, data: dict[str, Any]) -> None:
        """Starts writing `state`; returns when it has left the device. Raises UserError if a save failed."""
        step = int(state.step)
        if step == self.manager.latest_step():
            return
        note = {"step": step, "data": data, "checksums": checksums(state)}
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
            kept = ocp.utils.checkpoint_steps(self.folder)
            last = f"the last good one is step {max(kept)}" if kept else "there is none yet"
            raise UserError(f"a checkpoint could not be written ({one_line(error)}); {last}") from error

    def restore(self, abstract: State) -> tuple[State, dict[str, Any]] | None:
        """The newest checkpoint that is whole, on the shardings of `abstract`, and its note; None if there is none.

        A damaged one is told on stderr and moved to `damaged/` beside the folder. Raises UserError if all are,
        or if they hold another kind of state (another optimiser, say).
        """
        steps = sorted(self.manager.all_steps(), reverse=True)
        for step in steps:
            try:
                return self._restore(step, abstract)
            except UserError:
                raise
            except Exception as error:  # whatever orbax, tensorstore or a checksum find wrong with it
                self._set_aside(step, error)
        if steps:
            raise UserError(f"no checkpoint under {self.folder} is readable: all were moved to damaged/")
        return None

    def _restore(self, step: int, abstract: State) -> tuple[State, dict[str, Any]]:
        note = verified(self.manager.restore(step, args=ocp.args.Composite(note=ocp.args.JsonRestore())).note)
        if set(note["checksums"]) != set(_paths(abstract)):
            raise UserError(f"checkpoint {step} of {self.folder} holds another model or optimiser than configured")
        state = self.manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))).state
        compare(note["checksums"], checksums(state))
        return state, note

    def _set_aside(self, step: int, error: Exception) -> None:
        print(f"pagnol: checkpoint {step} is damaged ({one_line(error)}); trying the one before", file=sys.stderr)
        damaged = self.folder.parent / "damaged"
        damaged.mkdir(exist_ok=True)
        shutil.rmtree(damaged / str(step), ignore_errors=True)
        shutil.move(self.folder / str(step), damaged / str(step))
        self.manager.reload()


@jax.jit
def _sums(tree: Any) -> Any:
    return jax.tree.map(_bit_sum, tree)


def _bit_sum(x: jax.Array) -> jax.Array:
    """Sum over elements of bits_i * (2 i + 1) mod 2^32: odd weights let no single flipped bit pass, and integer
    sums do not depend on the order, so any mesh gives the same number."""
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)
    index = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):  # a flat index without a reshape, which would gather a sharded array
        index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    return (bits * (2 * index + 1)).sum(dtype=jnp.uint32)


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
    """The first line of an error's message, short enough for a terminal."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:200]
