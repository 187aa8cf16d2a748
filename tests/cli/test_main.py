"""The command line itself: quick help, an example for every command, one line for every mistake."""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagnol_jax.cli import main as cli
from pagnol_jax.cli.main import COMMANDS, main, parser

HEAVY = ("jax", "flax", "tensorflow", "torch", "seqio", "transformers", "orbax", "scipy", "matplotlib")


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, time\nfrom pagnol_jax.cli.main import main\n"
        "try:\n    main(['--help'])\nfinally:\n"
        f"    print([name for name in {HEAVY} if name in sys.modules], time.process_time(), sep='\\n', file=sys.stderr)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy, cpu_seconds = shown.stderr.splitlines()
    assert heavy == "[]"
    assert float(cpu_seconds) < 1
    assert all(re.search(rf"^ +{name}\b", shown.stdout, re.MULTILINE) for name in COMMANDS)


def test_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "pagnol_jax", "frobnicate"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    assert shown.returncode == 2
    assert "invalid choice: 'frobnicate'" in shown.stderr


def leaves(top: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Every command that can run, however deep."""
    groups = [a for a in top._actions if isinstance(a, argparse._SubParsersAction)]
    if not groups:
        yield top
    for group in groups:
        for command in group.choices.values():
            yield from leaves(command)


@pytest.mark.parametrize("command", leaves(parser()), ids=lambda command: command.prog)
def test_every_command_has_help_with_an_example(command: argparse.ArgumentParser) -> None:
    assert command.description
    assert command.epilog
    assert re.match(rf"example.*:\s+{command.prog} ", command.epilog), command.epilog


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: command"),
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        (["train"], "required: --gin_file"),
        (["train", "--gin_file", "a.gin", "--frob"], "unrecognized arguments: --frob"),
    ],
)
def test_usage_errors_end_with_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    *usage, told = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2
    assert "usage: pagnol" in usage[0]
    assert "error: " in told
    assert said in told


def test_gin_bindings_where_there_are_none(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    arguments = ["convert", str(tmp_path), str(tmp_path / "out"), "--to", "huggingface", "--gin.X=1"]
    assert main(arguments) == 2
    assert capsys.readouterr().err == "pagnol: error: this command takes no --gin bindings\n"


def test_version(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert re.fullmatch(r"pagnol_jax \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (OSError(28, "No space left on device", "out.png"), 2, "pagnol: error: No space left on device: out.png\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_ends_a_command(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    error: BaseException,
    status: int,
    said: str,
) -> None:
    def fail(_: argparse.Namespace) -> int:
        raise error

    top = argparse.ArgumentParser()
    top.set_defaults(run=fail)
    monkeypatch.setattr(cli, "parser", lambda: top)
    assert main([]) == status
    assert capsys.readouterr().err == said
