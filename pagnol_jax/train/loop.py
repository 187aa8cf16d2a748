"""The training loop: it hands steps to the device, writes down what comes back, and never waits without need."""

import collections
import contextlib
import signal
import sys
import time
from typing import NamedTuple, NoReturn

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from pagnol_jax.data.batches import MixtureBatches
from pagnol_jax.errors import UserError
from pagnol_jax.train import hosts
from pagnol_jax.train.checkpoint import Checkpoints, all_finite
from pagnol_jax.train.interrupt import Ballot, Interrupt
from pagnol_jax.train.peak import matmul_peak_flops
from pagnol_jax.train.record import Log, NoLog, RunFolder
from pagnol_jax.train.rows import Rows
from pagnol_jax.train.step import Metrics, State, Steps

# Steps handed to the device before the host reads the metrics of the first of them.
AHEAD = 2


class Pending(NamedTuple):
    """A step handed to the device. votes: whether hosts were told to stop, where there are several."""

    step: int
    metrics: Metrics
    votes: jax.Array | None


class Loop:
    """One run of `steps` over `data`, from a state at some step to `total_steps`.

    Batches are a pure function of the step, so the state's step is the whole position in the data.
    flops_per_token: of training, for the share of the matmul peak in `dtype`.
    """

    def __init__(
        self,
        steps: Steps,
        data: MixtureBatches,
        mesh: Mesh,
        folder: RunFolder,
        *,
        total_steps: int,
        evaluate_every: int,
        evaluate_windows: int | None,
        checkpoint_every: int,
        keep: int,
        log_every: int,
        flops_per_token: float,
        dtype: str,
    ) -> None:
        self.steps, self.data, self.mesh, self.folder = steps, data, mesh, folder
        self.total_steps, self.log_every = total_steps, log_every
        self.evaluate_every, self.checkpoint_every = evaluate_every, checkpoint_every
        self.evaluate_windows = evaluate_windows
        self.flops_per_token, self.dtype = flops_per_token, dtype
        self.tokens_per_step = data.batch_size * data.length
        self.checkpoints = Checkpoints(folder.checkpoints, keep)
        self.rows = Rows(data, steps.batch_sharding)
        self.ballot = Ballot(mesh) if hosts.several() else None
        self.pending: collections.deque[Pending] = collections.deque()
        self.stop: signal.Signals | None = None
        self.identity = {"fingerprint": data.fingerprint, "tokens_per_step": self.tokens_per_step}

    def run(self, seed: int) -> signal.Signals | None:
        """Trains to the end, or to a signal, which it returns after a checkpoint.

        Raises UserError for a full disk, a loss that is not finite, or checkpoints that do not fit.
        """
        try:
            return self._run(seed)
        except OSError as error:
            what = f"{self.folder.path}: {error.strerror or error}"
            raise UserError(f"{what}; of its checkpoints {self.checkpoints.newest()}") from error

    def _run(self, seed: int) -> signal.Signals | None:
        with jax.set_mesh(self.mesh), Interrupt() as interrupt, contextlib.ExitStack() as opened:
            opened.push(self._close)
            hosts.meet(self.mesh)
            state = self.start(seed)
            start = int(state.step)
            # Before the log: TensorBoard's process is busy with its imports for seconds.
            each = jax.process_count() if jax.default_backend() == "cpu" else self.mesh.size
            peak = matmul_peak_flops(self.dtype) * each
            if hosts.first():
                self.folder.cut_back(start)
            self.log = Log(self.folder) if hosts.first() else NoLog()
            opened.callback(self.log.close)
            self.bar = Progress(self.folder.path.name, start, self.total_steps, self.tokens_per_step, peak)
            opened.callback(self.bar.close)
            return self._train(state, start, interrupt)

    def _close(self, *error: object) -> None:
        """Waits for the last save; but not after an error on one of several hosts, for which the others wait."""
        if error == (None, None, None) or not hosts.several():
            self.checkpoints.close()

    def start(self, seed: int) -> State:
        """The newest whole checkpoint, or a fresh state."""
        restored = self.checkpoints.restore(self.steps.abstract_state)
        if restored is None:
            return self.steps.init(jax.random.key(seed))
        state, note = restored
        if note["data"] != self.identity:
            raise UserError(f"{self.folder.path}: its checkpoints were trained on other data or batches")
        if hosts.first():
            print(f"pagnol: {self.folder.path.name} resumes at step {int(state.step)}", file=sys.stderr)
        return state

    def _train(self, state: State, start: int, interrupt: Interrupt) -> signal.Signals | None:
        hosts.on_loss(self.checkpoints.advice)
        with self.rows.batches(start) as batches:
            for step in range(start, self.total_steps):
                state, metrics = self.steps.train(state, self.rows.put(next(batches)))
                votes = self.ballot.cast(interrupt.signal) if self.ballot else None
                self.pending.append(Pending(step + 1, metrics, votes))
                while len(self.pending) > AHEAD:
                    self._record(self.pending.popleft())
                if not self.ballot:
                    self.stop = interrupt.signal  # read once: one that comes later is seen after the next step
                stop = self.stop
                self._after(step + 1, state, stop is not None)
                if stop:
                    self.checkpoints.wait()
                    return stop
        self.checkpoints.wait()
        # One that came during the last evaluation ends a ladder too.
        return self.ballot.count(self.ballot.cast(interrupt.signal)) if self.ballot else interrupt.signal

    def _after(self, done: int, state: State, stop: bool) -> None:
        """Evaluation and checkpoint, where due; metrics are written before the checkpoint that follows them.

        A stop does not spare an evaluation that is due: the run that goes on from here would never make it.
        """
        last = done == self.total_steps
        evaluate = last or done % self.evaluate_every == 0
        checkpoint = last or stop or done % self.checkpoint_every == 0
        if not (evaluate or checkpoint):
            return
        while self.pending:
            self._record(self.pending.popleft())
        if not all_finite(state.params):
            self._diverged(done, "a parameter that is not finite")
        if evaluate:
            self._evaluate(done, state)
        if checkpoint:
            if hosts.first():
                self.folder.keep()
            self.log.flush()
            self.checkpoints.save(state, self.identity)

    def _record(self, pending: Pending) -> None:
        step = pending.step
        metrics, votes = jax.device_get((pending.metrics, pending.votes))
        loss, z_loss, norm, rate = map(float, metrics)
        if votes is not None:
            self.stop = self.stop or Ballot.count(votes)
        if not np.isfinite(loss) or not np.isfinite(norm):
            self._diverged(step, f"loss {loss} (gradient norm {norm})")
        tokens = step * self.tokens_per_step
        speed = self.bar.update(step, loss, self.flops_per_token)
        if step % self.log_every == 0 or step == self.total_steps:
            line = {"step": step, "tokens": tokens, "loss_nats_per_token": loss, "z_loss": z_loss}
            self.log.write("metrics", "train", line | {"gradient_norm": norm, "learning_rate": rate})
            self.log.write("speed", "speed", {"step": step} | speed)

    def _diverged(self, step: int, what: str) -> NoReturn:
        kept = self.folder.path / "diverged" / f"step_{step}.npz"
        self.checkpoints.wait()
        if hosts.first():
            kept.parent.mkdir(exist_ok=True)
            with kept.open("wb") as file:
                np.savez(file, **self.data.batch(step - 1)._asdict())
        raise UserError(f"{what} at step {step}; its batch is kept in {kept}")

    def _evaluate(self, step: int, state: State) -> None:
        for corpus in self.data.corpora:
            batches = self.rows.validation(corpus, self.evaluate_windows)
            sums = [self.steps.evaluate(state.params, self.rows.put(batch)) for batch in batches]
            total = jax.tree.map(lambda *x: float(np.sum(x)), *jax.device_get(sums))
            nats = total.nats / total.weight
            line = {"step": step, "tokens": step * self.tokens_per_step, "split": "validation", "corpus": corpus}
            line |= {"loss_nats_per_token": nats, "perplexity": float(np.exp(nats))}
            line |= {"bits_per_byte": nats / np.log(2) / self.data.bytes_per_token[corpus]}
            self.log.write("metrics", f"validation/{corpus}", line | {"tokens_evaluated": int(total.weight)})
            self.bar.validation(corpus, nats)
        watched = jax.device_get(self.steps.watch(state, self.rows.put(self.rows.batch(step - 1))))
        for name, values in watched.items():
            layers = {f"{i}": float(value) for i, value in enumerate(np.atleast_1d(values))}
            self.log.write("metrics", name, {"step": step, "watched": name} | layers)


class Progress:
    """The bar: loss, tokens per second and share of the machine's matmul peak, over the last seconds."""

    def __init__(self, name: str, start: int, total: int, tokens_per_step: int, peak_flops: float) -> None:
        shown = {"dynamic_ncols": True, "mininterval": 0.5, "disable": not hosts.first()}
        self.bar = tqdm(total=total, initial=start, desc=name, unit="step", **shown)
        self.tokens_per_step, self.peak = tokens_per_step, peak_flops
        self.latest: dict[str, str] = {}
        self.times = collections.deque([(start, time.perf_counter())], maxlen=32)

    def update(self, step: int, loss: float, flops_per_token: float) -> dict[str, float]:
        """Advances to `step`; returns tokens/s and the share of the peak since up to 32 steps ago."""
        self.times.append((step, time.perf_counter()))
        (first, begin), (last, end) = self.times[0], self.times[-1]
        rate = (last - first) * self.tokens_per_step / (end - begin)
        share = rate * flops_per_token / self.peak
        self.latest |= {"loss": f"{loss:.3f}", "tok/s": f"{rate:,.0f}", "peak": f"{share:.0%}"}
        self.bar.set_postfix(self.latest, refresh=False)
        self.bar.update(step - self.bar.n)
        return {"tokens_per_second": rate, "share_of_matmul_peak": share}

    def validation(self, corpus: str, loss: float) -> None:
        self.latest[corpus] = f"{loss:.3f}"

    def close(self) -> None:
        self.bar.close()
