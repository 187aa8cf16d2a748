"""From what a user names on the command line to records."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.folders import is_run_folder, read_run_folder
from pagnol_jax.scaling.record import RunRecord
from pagnol_jax.scaling.tables import READERS, read_table


def read_runs(
    paths: Sequence[Path],
    corpus: str | None = None,
    columns: Mapping[str, str] | None = None,
    exclude: Collection[str] = (),
) -> list[RunRecord]:
    """Records of run folders, of tables, and of folders that hold either.

    Args:
      paths: run folders, parent folders of runs, tables, folders of tables.
      corpus: validation corpus of our run folders; None is the mean over all.
      columns: field -> column of the tables, see `tables.COLUMNS`.
      exclude: names of runs (or of their folders) to leave out.

    Raises:
      UserError: a path that holds no run, two runs of one name, a name in `exclude` that no run has.
    """
    sources = dict.fromkeys(source.resolve() for path in paths for source in _sources(path))
    left_out = {source.name for source in sources if source.name in exclude}
    runs: list[RunRecord] = []
    for source in sources:
        if source.name in exclude:  # before it is read: a run that cannot be read can be left out too
            continue
        runs += [read_run_folder(source, corpus)] if is_run_folder(source) else read_table(source, columns)
    names = [run.name for run in runs]
    unknown = sorted(set(exclude) - left_out - set(names))
    if unknown:
        raise UserError(f"--exclude {unknown[0]}: no such run; there are {', '.join(names)}")
    kept = [run for run in runs if run.name not in exclude]
    twice = sorted({run.name for run in kept if names.count(run.name) > 1})
    if twice:
        raise UserError(f"two runs are named {twice[0]!r}: rename one in its run.json or table")
    return kept


def _sources(path: Path) -> list[Path]:
    """The run folders and tables that `path` stands for."""
    if path.is_file():
        if path.suffix not in READERS:
            raise UserError(f"{path} is neither a run folder nor a table ({', '.join(READERS)})")
        return [path]
    if not path.is_dir():
        raise UserError(f"{path} does not exist")
    if is_run_folder(path):
        return [path]
    children = sorted(path.iterdir())
    found = [child for child in children if is_run_folder(child)] or [c for c in children if c.suffix in READERS]
    if not found:
        raise UserError(f"{path} holds no run folder (run.json) and no table ({', '.join(READERS)})")
    return found
