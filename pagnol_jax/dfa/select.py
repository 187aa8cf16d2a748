"""Which modules: paths with globs, or a predicate."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

import flax.linen as nn

# '/'-joined paths of modules from the root of the apply, '' for the root itself, with globs: `*` stands within a name,
# `**` for any number of names. Or a function of the bound module.
Where = str | Sequence[str] | Callable[[nn.Module], bool]


def path(module: nn.Module) -> str:
    """'blocks/mlp' of a bound module, '' of the root."""
    return "/".join(module.path)


def matches(where: Where, module: nn.Module) -> list[str]:
    """The patterns of `where` that a bound module matches; ['predicate'] for a function that takes it."""
    if callable(where):
        return ["predicate"] if where(module) else []
    return [pattern for pattern in patterns(where) if fits(path(module), pattern)]


def fits(name: str, pattern: str) -> bool:
    """Whether a '/'-joined path is one that a pattern stands for."""
    return _fit(*([part for part in path.split("/") if part] for path in (name, pattern)))


def _fit(names: list[str], parts: list[str]) -> bool:
    if not parts:
        return not names
    if parts[0] == "**":
        return any(_fit(names[skipped:], parts[1:]) for skipped in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], parts[0]) and _fit(names[1:], parts[1:])


def patterns(where: Where) -> list[str]:
    """All that has to match something."""
    if callable(where):
        return ["predicate"]
    return [where] if isinstance(where, str) else list(where)
