"""The training loop: it hands steps to the device, writes down what comes back, and never waits without need."""

import collections
import contextlib
import signal
import sys
import time
from typing import Any, NoReturn

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from pagnol_jax.data.batches import Batch, MixtureBatches
from pagnol_jax.errors import UserError
from pagnol_jax.train.checkpoint import Checkpoints, all_finite
from pagnol_jax.train.interrupt import Interrupt
from pagnol_jax.train.peak import matmul_peak_flops
from pagnol_jax.train.record import Log, RunFolder
from pagnol_jax.train.step import Metrics, State, Steps

# Steps handed to the device before the host reads the metrics of the first of them.
AHEAD = 2


class Loop:
    """One run of `steps` over `data`, from a state at some step to `total_steps`.

    Batches are a pure function of the step, so the state's step is the whole position in the data.
    flops_per_token: of training, for the share of the matmul peak in `dtype`. schedule: step -> learning rate.
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
        schedule: Any,
        dtype: str,
    ) -> None:
        self.steps, self.data, self.mesh, self.folder = steps, data, mesh, folder
        self.total_steps, self.log_every = total_steps, log_every
        self.evaluate_every, self.checkpoint_every = evaluate_every, checkpoint_every
        self.evaluate_windows = evaluate_windows
        self.flops_per_token, self.schedule, self.dtype = flops_per_token, schedule, dtype
        self.tokens_per_step = data.batch_size * data.length
        self.checkpoints = Checkpoints(folder.checkpoints, keep)
        self.pending: collections.deque[tuple[int, Metrics]] = collections.deque()
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
            opened.callback(self.checkpoints.close)
            state = self.start(seed)
            start = int(state.step)
            self.folder.cut_back(start)
            # Before the log: TensorBoard's process is busy with its imports for seconds.
            peak = matmul_peak_flops(self.dtype) * (self.mesh.size if jax.default_backend() != "cpu" else 1)
            self.log = Log(self.folder)
            opened.callback(self.log.close)
            self.bar = Progress(self.folder.path.name, start, self.total_steps, self.tokens_per_step, peak)
            opened.callback(self.bar.close)
            return self._train(state, start, interrupt)

    def start(self, seed: int) -> State:
        """The newest whole checkpoint, or a fresh state."""
        restored = self.checkpoints.restore(self.steps.abstract_state)
        if restored is None:
            return self.steps.init(jax.random.key(seed))
        state, note = restored
        if note["data"] != self.identity:
            raise UserError(f"{self.folder.path}: its checkpoints were trained on other data or batches")
        print(f"pagnol: {self.folder.path.name} resumes at step {int(state.step)}", file=sys.stderr)
        return state

    def _train(self, state: State, start: int, interrupt: Interrupt) -> signal.Signals | None:
        with self.data.prefetch(start) as batches:
            for step in range(start, self.total_steps):
                state, metrics = self.steps.train(state, self.put(next(batches)))
                self.pending.append((step + 1, metrics))
                while len(self.pending) > AHEAD:
                    self._record(*self.pending.popleft())
                stop = interrupt.signal  # read once: one that comes later is seen after the next step
                self._after(step + 1, state, stop is not None)
                if stop:
                    self.checkpoints.wait()
                    return stop
        self.checkpoints.wait()
        return interrupt.signal  # one that came during the last evaluation ends a ladder too

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
            self._record(*self.pending.popleft())
        if not all_finite(state.params):
            self._diverged(done, "a parameter that is not finite")
        if evaluate:
            self._evaluate(done, state)
        if checkpoint:
            self.log.flush()
            self.checkpoints.save(state, self.identity)

    def put(self, batch: Batch) -> Batch:
        """A host's rows of a batch as global arrays on the mesh."""
        sharding = self.steps.batch_sharding
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)

    def _record(self, step: int, metrics: Metrics) -> None:
        loss, z_loss, norm = (float(m) for m in jax.device_get(metrics))
        if not np.isfinite(loss) or not np.isfinite(norm):
            self._diverged(step, f"loss {loss} (gradient norm {norm})")
        tokens = step * self.tokens_per_step
        speed = self.bar.update(step, loss, self.flops_per_token)
        if step % self.log_every == 0 or step == self.total_steps:
            rate = float(self.schedule(step - 1))
            line = {"step": step, "tokens": tokens, "loss_nats_per_token": loss, "z_loss": z_loss}
            self.log.write("metrics", "train", line | {"gradient_norm": norm, "learning_rate": rate})
            self.log.write("speed", "speed", {"step": step} | speed)

    def _diverged(self, step: int, what: str) -> NoReturn:
        kept = self.folder.path / "diverged" / f"step_{step}.npz"
        kept.parent.mkdir(exist_ok=True)
        np.savez(kept, **self.data.batch(step - 1)._asdict())
        raise UserError(f"{what} at step {step}; its batch is kept in {kept}")

    def _evaluate(self, step: int, state: State) -> None:
        for corpus in self.data.corpora:
            batches = self.data.validation(corpus, self.evaluate_windows)
            sums = [self.steps.evaluate(state.params, self.put(batch)) for batch in batches]
            total = jax.tree.map(lambda *x: float(np.sum(x)), *jax.device_get(sums))
            nats = total.nats / total.weight
            line = {"step": step, "tokens": step * self.tokens_per_step, "split": "validation", "corpus": corpus}
            line |= {"loss_nats_per_token": nats, "perplexity": float(np.exp(nats))}
            line |= {"bits_per_byte": nats / np.log(2) / self.data.bytes_per_token[corpus]}
            self.log.write("metrics", f"validation/{corpus}", line | {"tokens_evaluated": int(total.weight)})
            self.bar.validation(corpus, nats)


class Progress:
    """The bar: loss, tokens per second and share of the machine's matmul peak, over the last seconds."""

    def __init__(self, name: str, start: int, total: int, tokens_per_step: int, peak_flops: float) -> None:
        self.bar = tqdm(total=total, initial=start, desc=name, unit="step", dynamic_ncols=True, mininterval=0.5)
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
