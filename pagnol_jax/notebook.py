"""`pagnol` in a notebook: a command in a process of its own, watched, its errors in one line; figures in our style.

Commands get a process of their own because an accelerator serves one process at a time: the notebook's kernel stays off
it until it imports jax itself.
"""

import contextlib
import io
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from pagnol_jax.errors import UserError

BAR = re.compile(r"\d+%\||B/s\]|\d\d:\d\d$")  # a progress bar, or a clock
POLL = 0.3  # seconds between two looks at a command
Draw = Callable[[Any], None]  # draws on a matplotlib Figure


class CommandError(UserError):
    """Ends a cell with one line instead of a traceback."""

    def _render_traceback_(self) -> list[str]:  # what IPython shows
        return [f"pagnol: error: {self}"]


def pagnol(
    line: str,
    *,
    watch: Draw | None = None,
    every: float = 5.0,
    until: Callable[[], bool] | None = None,
    **environment: str,
) -> None:
    """Runs `pagnol LINE`, read as a shell reads it, and prints what it printed, progress bars left out.

    watch: draws a figure, anew every `every` seconds and at the end.
    until: once it is true the command gets SIGTERM, at which training saves a checkpoint.
    environment: variables for the command alone.
    The notebook's Stop button interrupts the command, once, and waits for its end.
    Raises CommandError, with the command's own words, where it fails.
    """
    arguments = shlex.split(line)
    print("$ pagnol", line, flush=True)
    shown = _Place()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        # A session of its own, so that the kernel's interrupt reaches it through us alone.
        process = subprocess.Popen(
            [sys.executable, "-m", "pagnol_jax", *arguments],
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        stopped = False
        begin = drawn = time.monotonic()
        try:
            while process.poll() is None:
                time.sleep(POLL)
                if until and not stopped and until():
                    process.terminate()
                    stopped = True
                if (now := time.monotonic()) - drawn >= every:
                    drawn = now
                    if not _drawn(shown, watch):
                        shown.text(f"running, {_clock(now - begin)}")
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise CommandError(_last_line(err) or "interrupted") from None
        finally:
            if process.poll() is None:
                process.kill()
        if not _drawn(shown, watch):
            shown.text(f"took {_clock(time.monotonic() - begin)}")
        out.seek(0)
        print(out.read(), end="")
        if stopped and process.returncode == 128 + signal.SIGTERM:
            print(_last_line(err))
        elif process.returncode:
            raise CommandError(_last_line(err) or f"exit status {process.returncode}")


def show(draw: Draw, width: float = 6.4, height: float = 3.6) -> None:
    """Shows what `draw` makes of a figure of so many inches, in the style of `pagnol_jax.scaling.plots`."""
    _Place().show(_image(draw, width, height))


def _drawn(place: "_Place", watch: Draw | None) -> bool:
    """Whether there was something to draw."""
    if watch:
        with contextlib.suppress(FileNotFoundError):  # a run that has not begun to write
            place.show(_image(watch, 6.4, 3.6))
            return True
    return False


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def _image(draw: Draw, width: float, height: float) -> Any:
    """The figure as a PNG for screens of twice the usual density."""
    from IPython.display import Image
    from matplotlib.figure import Figure

    from pagnol_jax.scaling.plots import LIGHT, styled

    png = io.BytesIO()
    with styled(LIGHT):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        figure.savefig(png, dpi=160, format="png")
    return Image(png.getvalue(), width=int(110 * width))


class _Place:
    """A place in a cell's output that is filled, and filled anew."""

    def __init__(self) -> None:
        self.handle: Any = None

    def show(self, thing: Any) -> None:
        from IPython.display import display

        if self.handle is None:
            self.handle = display(thing, display_id=True)
        else:
            self.handle.update(thing)

    def text(self, text: str) -> None:
        from IPython.display import HTML

        self.show(HTML(f"<i>{text}</i>"))


def _last_line(stream: Any) -> str:
    """What a command said last on stderr, without its name and `error:`; bars do not count."""
    stream.seek(0)
    lines = [one.strip() for one in stream.read().replace("\r", "\n").splitlines()]
    told = [one for one in lines if one and not BAR.search(one)]
    own = [one for one in told if one.startswith("pagnol: ")] or told
    return own[-1].removeprefix("pagnol: ").removeprefix("error: ") if own else ""
