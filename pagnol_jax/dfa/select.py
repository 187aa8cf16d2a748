"""Which modules: paths with globs, or a predicate."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

import flax.linen as nn

# '/'-joined paths of modules from the root of the apply, '' for the root itself, `*` and `?` within or across names;
# or a function of the bound module.
Where = str | Sequence[str] | Callable[[nn.Module], bool]


def path(module: nn.Module) -> str:
    """'blocks/mlp' of a bound module, '' of the root."""
    return "/".join(module.path)


def matches(where: Where, module: nn.Module) -> list[str]:
    """The patterns of `where` that a bound module matches; ['predicate'] for a function that takes it."""
    if callable(where):
        return ["predicate"] if where(module) else []
    return [pattern for pattern in patterns(where) if fnmatchcase(path(module), pattern)]


def patterns(where: Where) -> list[str]:
    """All that has to match something."""
    if callable(where):
        return ["predicate"]
    return [where] if isinstance(where, str) else list(where)
