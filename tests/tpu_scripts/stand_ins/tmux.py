"""Stands in for tmux: one detached session, a process group whose leader is in ~/.session while it lives."""

import os
import signal
import subprocess
import sys
from pathlib import Path

SESSION = Path.home() / ".session"


def main(verb: str, *arguments: str) -> int:
    if verb == "has-session":
        return 0 if SESSION.exists() else 1
    if verb == "kill-session":
        os.killpg(int(SESSION.read_text()), signal.SIGKILL)
        SESSION.unlink()
        return 0
    assert verb == "new-session"
    assert arguments[:5] == ("-d", "-s", "pagnol", "-c", str(Path.home()))
    inner = f'echo $$ > "$0.new"; mv "$0.new" "$0"; trap : TERM; {arguments[5]}; rm -f "$0"'
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.Popen(["sh", "-c", inner, str(SESSION)], start_new_session=True, cwd=Path.home(), **quiet)
    while not SESSION.exists() and not (Path.home() / "pagnol/session/exit_status").exists():
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
