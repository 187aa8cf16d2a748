"""TensorBoard through clu, in a process of its own.

clu's writers import TensorFlow, which takes seconds, hundreds of megabytes and, if let, an accelerator. The
process keeps all three away from training; it ends when its input does, so no kill leaves it behind.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path


class TensorBoard:
    """Scalars for TensorBoard; says on stderr once if TensorFlow or clu is not installed, and then does nothing."""

    def __init__(self, folder: Path) -> None:
        self._process: subprocess.Popen[str] | None = None
        if missing := [name for name in ("tensorflow", "clu") if importlib.util.find_spec(name) is None]:
            print(f"pagnol: no TensorBoard log: {missing[0]} is not installed (extra 'data')", file=sys.stderr)
            return
        quiet = {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-m", "pagnol_jax.train.tensorboard", str(folder)]
        # A session of its own: Ctrl-C in the terminal stops training, which then closes this pipe.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            env=os.environ | quiet,
        )

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Hands over scalars; a writer that died loses them, the run goes on."""
        if self._process and self._process.stdin:
            try:
                print(json.dumps({"step": step, "scalars": scalars}), file=self._process.stdin, flush=True)
            except BrokenPipeError:
                print("pagnol: the TensorBoard writer died; metrics.jsonl has every value", file=sys.stderr)
                self._process = None

    def close(self) -> None:
        """Lets the writer finish, without waiting for it."""
        if self._process and self._process.stdin:
            self._process.stdin.close()


def main(folder: str) -> None:
    """Writes the lines of standard input until it ends."""
    from clu import metric_writers

    writer = metric_writers.SummaryWriter(folder)
    for line in sys.stdin:
        values = json.loads(line)
        writer.write_scalars(values["step"], values["scalars"])
    writer.close()


if __name__ == "__main__":
    main(sys.argv[1])
