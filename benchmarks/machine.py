"""What a result was measured on."""

import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch", "transformers", "seqio", "tensorflow", "numpy")


def describe() -> dict[str, Any]:
    """Processor, cores, versions and command of this process."""
    found = {name: metadata.version(name) for name in PACKAGES if _installed(name)}
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": found,
        "command": " ".join(["python", "-m", _module(), *sys.argv[1:]]),
    }


def save(path: Path, report: dict[str, Any]) -> None:
    """Writes a report as JSON, in a folder made for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _module() -> str:
    main = Path(sys.argv[0])
    return f"{main.parent.name}.{main.stem}"


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _processor() -> str:
    """The model's name, as Linux tells it, with the vector instructions that matter to matrix products."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    named = {key.strip(): value.strip() for key, value in fields.items()}
    flags = [flag for flag in ("avx2", "avx512f", "amx_bf16") if flag in named.get("flags", "").split()]
    return f"{named.get('model name', platform.processor())} ({', '.join(flags)})"
