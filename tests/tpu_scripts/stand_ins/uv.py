"""Stands in for uv: a virtual environment whose pagnol is the stand-in, installed once the extras are asked for."""

import json
import os
import shutil
import sys
from pathlib import Path

CLOUD = Path(os.environ["CLOUD"])

with (CLOUD / "uv.jsonl").open("a") as calls:
    calls.write(json.dumps([os.environ["HOSTNAME"], *sys.argv[1:]]) + "\n")
if sys.argv[1] == "venv":
    (Path(sys.argv[-1]) / "bin").mkdir(parents=True)
    shutil.copy(shutil.which("python3"), Path(sys.argv[-1]) / "bin" / "python")
else:
    assert Path(sys.argv[-1].partition("[")[0], "pyproject.toml").is_file()
    shutil.copy(shutil.which("pagnol-stand-in"), "venv/bin/pagnol")
