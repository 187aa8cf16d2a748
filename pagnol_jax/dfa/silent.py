"""Feedback points that cut and hear nothing."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from pagnol_jax.dfa.feedback import Feedback, Tap
from pagnol_jax.dfa.select import fits, patterns
from pagnol_jax.errors import UserError


def silent(feedback: Feedback, taps: Sequence[str]) -> Feedback:
    """`feedback` for all taps but those that match `taps` (paths with globs), which get zeros and count for no matrix.

    What lies only below such a tap does not learn: it goes into the rule's `without_gradient`.
    `init` raises UserError for a pattern that matches no tap, and where no tap would be left to hear.
    """
    quiet = patterns(taps)

    def heard(found: Sequence[Tap]) -> list[Tap]:
        return [tap for tap in found if not any(fits(tap.path, pattern) for pattern in quiet)]

    def init(key: jax.Array, error_width: int, found: Sequence[Tap]) -> Any:
        paths = ", ".join(tap.path for tap in found)
        if unmatched := [pattern for pattern in quiet if not any(fits(tap.path, pattern) for tap in found)]:
            raise UserError(f"no tap matches {unmatched[0]!r}, which is to be silent: there are {paths}")
        if not (hears := heard(found)):
            raise UserError(f"all taps are silent ({paths}): none is left to hear feedback")
        return feedback.init(key, error_width, hears)

    def project(matrices: Any, error: jax.Array, found: Sequence[Tap]) -> list[jax.Array]:
        hears = heard(found)
        signals = dict(zip(hears, feedback.project(matrices, error, hears), strict=True))
        return [signals.get(tap, jnp.zeros((*tap.batch, tap.width), error.dtype)) for tap in found]

    return Feedback(f"{feedback.name}, silent at {', '.join(quiet)}", init, project)
