"""What every script owes its user: help, one-line errors, dry runs that print what a real run does, clean shell."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tpu_scripts.cloud import COMMON, SCRIPTS, Cloud

TRAIN = ["--", "pagnol", "train", "--run_dir", "gs://my bucket/it's $HOME"]
CALLS = {  # a good call of every script
    "create.sh": ["--accelerator-type", "v5litepod-16", "--spot", "--yes", "--poll", "0.01"],
    "setup.sh": [],
    "launch.sh": ["--env", "NOTE=a  'b' $c", *TRAIN],
    "status.sh": [],
    "logs.sh": ["--no-follow"],
    "fetch.sh": ["--run-dir", "runs/a b", "--to", "/nowhere/a b"],
    "stop.sh": [],
    "supervise.sh": ["--accelerator-type", "v6e-8", *TRAIN],
    "delete.sh": ["--yes"],
}


def commands(printed: str) -> list[list[str]]:
    """The gcloud commands of a dry run, as a shell reads them."""
    lines = printed.replace(" \\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("gcloud ")]


def test_every_script_is_listed() -> None:
    assert {p.name for p in SCRIPTS.glob("*.sh")} - {"lib.sh", "worker.sh"} == set(CALLS)


@pytest.mark.parametrize("script", CALLS)
def test_help_fits_a_terminal_and_ends_with_an_example(cloud: Cloud, script: str) -> None:
    done = cloud.run(script, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert done.stdout.startswith(f"usage: {script} ")
    assert "Exit status: 0 " in done.stdout
    example = re.split(r"examples?:\n", done.stdout)[1]
    words = shlex.split(example.split(f"\n  {script}")[0].replace("\\\n", " "))
    assert words[0] == script
    tried = cloud.run(script, "--dry-run", *words[1:])  # the example works
    assert tried.returncode == 0, tried.stderr
    assert "gcloud " in tried.stdout


@pytest.mark.parametrize("script", CALLS)
def test_dry_run_prints_and_needs_no_gcloud(cloud: Cloud, script: str) -> None:
    (cloud.bin / "gcloud").unlink()
    before = sorted(cloud.folder.iterdir())
    done = cloud.run(script, *COMMON, "--dry-run", *CALLS[script])
    assert done.returncode == 0, done.stderr
    assert commands(done.stdout)
    assert sorted(cloud.folder.iterdir()) == before
    without = cloud.run(script, *COMMON, *CALLS[script])
    assert without.returncode == 1
    assert "gcloud is not installed: https://cloud.google.com/sdk/docs/install" in without.stderr
    assert len(without.stderr.splitlines()) == 1


@pytest.mark.parametrize("script", ["create.sh", "setup.sh", "launch.sh", "logs.sh", "stop.sh"])
def test_dry_run_prints_what_is_run(cloud: Cloud, script: str) -> None:
    """Word for word, through the shell's own rules; the commands that follow from an answer are printed once."""
    cloud.set("plans", [["ACTIVE"]])
    if script != "create.sh":
        cloud.active()
        assert cloud.run("setup.sh", *COMMON, "--checkout", str(cloud.checkout)).returncode == 0
        cloud.run("launch.sh", *COMMON, "--", "true")
        while (cloud.home("my-tpu-w0") / ".session").exists():
            pass
        (cloud.folder / "calls.jsonl").unlink()
    more = CALLS[script] + (["--checkout", str(cloud.checkout)] if script == "setup.sh" else [])
    printed = cloud.run(script, *COMMON, "--dry-run", *more)
    assert cloud.lines("calls") == []
    done = cloud.run(script, *COMMON, *more)
    assert done.returncode == 0, done.stderr
    assert commands(printed.stdout) == cloud.lines("calls")


def test_dry_run_does_not_print_secrets(cloud: Cloud) -> None:
    done = cloud.run(
        "launch.sh", *COMMON, "--dry-run", "--env", "WANDB_API_KEY", "--env", "WANDB_MODE", *TRAIN,
        WANDB_API_KEY="se$cret", WANDB_MODE="offline",
    )  # fmt: skip
    assert "se$cret" not in done.stdout + done.stderr
    assert commands(done.stdout)[-1][-1].startswith(
        "--command=bash pagnol/worker.sh start -- env 'WANDB_API_KEY=***' WANDB_MODE=offline pagnol train"
    )


@pytest.mark.parametrize("script", [script for script in CALLS if script != "fetch.sh"])
@pytest.mark.parametrize("missing", ["--name", "--project", "--zone"])
def test_what_is_missing_is_told_in_a_line(cloud: Cloud, script: str, missing: str) -> None:
    at = COMMON.index(missing)
    done = cloud.run(script, *COMMON[:at], *COMMON[at + 2 :], *CALLS[script])
    variable = {"--name": "TPU_NAME", "--project": "CLOUDSDK_CORE_PROJECT", "--zone": "CLOUDSDK_COMPUTE_ZONE"}[missing]
    assert done.returncode == 2
    assert re.fullmatch(
        rf"{script}: error: no \w+: give {missing} or set {variable} \(see {script} --help\)\n", done.stderr
    )
    given_by_variable = cloud.run(
        script, "--dry-run", *COMMON[:at], *COMMON[at + 2 :], *CALLS[script], **{variable: "other"}
    )
    assert given_by_variable.returncode == 0
    assert "other" in given_by_variable.stdout


@pytest.mark.parametrize(
    ("script", "arguments", "told"),
    [
        ("create.sh", [], "no TPU type: give --accelerator-type, as in v5litepod-16"),
        (
            "create.sh",
            ["--accelerator-type", "v9-8"],
            "--accelerator-type v9-8: one of v4-N, v5p-N, v5litepod-N, v6e-N",
        ),
        ("create.sh", ["--accelerator-type", "v4-4"], "--accelerator-type v4-4: a multiple of 8 TensorCores"),
        ("create.sh", ["--accelerator-type"], "--accelerator-type needs a value"),
        ("create.sh", ["--accelerator-type=v4-8", "--spot", "--reserved"], "--spot and --reserved exclude each other"),
        ("create.sh", ["--accelerator-type=v4-8", "--poll=soon"], "--poll soon: a number of seconds"),
        ("create.sh", ["--accelerator-type=v4-8", "--price-per-chip-hour=$2"], "--price-per-chip-hour $2: a number"),
        ("create.sh", ["--accelerator-type=v4-8", "--node-count=0"], "--node-count 0: a whole number above 0"),
        ("create.sh", ["--accelerator-type=v4-8", "--spot=yes"], "unexpected argument: yes"),
        ("create.sh", ["--accelerator-type=v4-8", "--", "pagnol"], "this script takes no command after --"),
        ("delete.sh", ["--force"], "unknown option: --force"),
        ("delete.sh", ["my-tpu"], "unexpected argument: my-tpu"),
        ("delete.sh", ["--name", "My TPU"], "--name My TPU: lower-case letters, digits and hyphens, a letter first"),
        ("launch.sh", ["--"], "no command: give it after --, as in -- pagnol train --gin_file gin/runs/pagnol_s.gin"),
        ("launch.sh", ["--env", "NOT_SET", *TRAIN], "--env NOT_SET: not set here; give --env NOT_SET=VALUE"),
        ("launch.sh", ["--env", "a b=c", *TRAIN], "--env a b=c: not a variable's name"),
        ("logs.sh", ["--slice", "1"], "--slice 1: there are 1 (--node-count)"),
        ("logs.sh", ["--worker", "all"], "--worker all: a whole number"),
        ("fetch.sh", ["--to", "x"], "no run folder: give --run-dir"),
        ("fetch.sh", ["--run-dir", "x"], "no folder to copy to: give --to"),
        ("setup.sh", ["--checkout", "/tmp"], "--checkout /tmp: no pyproject.toml there"),
        ("setup.sh", ["--checkout", "a", "--repository", "b"], "--checkout and --repository exclude each other"),
        ("setup.sh", ["--ref", "b"], "--ref needs --repository"),
        ("supervise.sh", ["--accelerator-type=v4-8"], "no command: give it after --"),
        ("supervise.sh", TRAIN, "no TPU type"),
        ("supervise.sh", ["--accelerator-type=v9", *TRAIN], "create.sh: error: --accelerator-type v9: one of"),
    ],
)
def test_bad_usage(cloud: Cloud, script: str, arguments: list[str], told: str) -> None:
    done = cloud.run(script, *COMMON, *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert told in line
    assert re.match(r"[a-z]+\.sh: error: .* \(see [a-z]+\.sh --help\)$", line)
    assert cloud.lines("calls") == []


def test_local_checkpoints_are_warned_of(cloud: Cloud) -> None:
    train = ["pagnol", "train", "--run_dir", "runs/s"]
    done = cloud.run("supervise.sh", *COMMON, "--dry-run", "--accelerator-type", "v4-8", "--", *train)
    assert done.stderr.splitlines()[0] == (
        "supervise.sh: warning: no gs:// in the command: checkpoints on a VM's disk are lost with the VM"
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1))
def test_quoted_words_survive_a_shell(words: list[str]) -> None:
    """Any words at all, through bash and through a POSIX shell."""
    quoted = subprocess.run(
        ["bash", "-c", 'source "$0/lib.sh"; quote "$@"', SCRIPTS, *words], capture_output=True, check=True
    ).stdout.decode()
    for shell in ("bash", "sh"):
        command = [shell, "-c", f"printf '%s\\0' {quoted}"]
        assert subprocess.run(command, capture_output=True, check=True).stdout.decode() == "".join(
            f"{w}\0" for w in words
        )


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed (it is in the dev extra)")
def test_shellcheck_is_silent() -> None:
    done = subprocess.run(["shellcheck", *SCRIPTS.glob("*.sh")], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.skipif(not shutil.which("tmux"), reason="tmux is not installed")
def test_run_outlives_its_tmux_server_to_save_its_checkpoint(cloud: Cloud, tmp_path: Path) -> None:
    """The real tmux: it dies with its machine and hangs up on the run, which SIGTERM asks for a checkpoint."""
    cloud.active()
    assert cloud.run("setup.sh", *COMMON, "--checkout", str(cloud.checkout)).returncode == 0
    (cloud.bin / "tmux").unlink()
    (cloud.bin / "tmux").symlink_to(str(shutil.which("tmux")))
    home, environment = (
        cloud.home("my-tpu-w0"),
        cloud.environment | {"HOSTNAME": "my-tpu-w0", "TMUX_TMPDIR": str(tmp_path)},
    )
    environment["HOME"] = str(home)

    def shell(command: str) -> str:
        return subprocess.run(
            ["bash", "-c", command], env=environment, cwd=home, check=True, capture_output=True, text=True, timeout=30
        ).stdout

    try:
        shell("bash pagnol/worker.sh start -- pagnol train 'a  b'")
        shell(f"until [ -e {cloud.folder}/waiting-my-tpu-w0-1 ]; do sleep 0.05; done")
        assert shell("bash pagnol/worker.sh status") == "running my-tpu-w0\n"
    finally:
        shell("tmux kill-server")
    shell("kill -0 $(cat pagnol/session/pid); kill -TERM $(cat pagnol/session/pid)")
    shell("until [ -e pagnol/session/exit_status ]; do sleep 0.05; done")
    assert shell("bash pagnol/worker.sh status") == "exited 143 my-tpu-w0\n"
    assert "checkpoint saved" in (home / "pagnol/session/log").read_text()
    assert cloud.lines("runs")[0]["arguments"] == ["train", "a  b"]
