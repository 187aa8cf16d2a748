"""pagnol_jax: French GPT pre-training, scaling laws and Direct Feedback Alignment in JAX."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pagnol_jax.generate import PAGnol

__version__ = "0.1.0"
__all__ = ["PAGnol", "__version__"]


def __getattr__(name: str) -> Any:
    """Imports what needs jax only when it is asked for."""
    if name == "PAGnol":
        from pagnol_jax.generate import PAGnol

        return PAGnol
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
