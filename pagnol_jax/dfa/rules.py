"""Training rules as values: what is cut, and what learns from what."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from pagnol_jax.dfa import feedback as feedbacks
from pagnol_jax.dfa.select import Where, patterns
from pagnol_jax.errors import UserError


class Rule(NamedTuple):
    """How a network learns; make one by the functions below.

    taps: modules whose outputs are feedback points. error: the module whose output carries the error.
    normalise: taps whose feedback comes down through a layer norm.
    cut: the true gradient stops at the taps. feedback: what comes instead, if anything.
    freeze: the taps' own parameters stay as they are.
    without_gradient: paths of parameters, with globs, that may go without a gradient.
    """

    name: str
    taps: Where = ()
    error: Where = ""
    cut: bool = False
    feedback: feedbacks.Feedback | None = None
    freeze: bool = False
    without_gradient: Sequence[str] = ()
    normalise: Where = ()

    def to_json(self) -> dict[str, Any]:
        """What a record says of it."""
        named = {"name": self.name, "taps": _said(self.taps)}
        return named | (
            {"error": _said(self.error), "feedback": self.feedback.name, "normalise": _said(self.normalise)}
            if self.feedback
            else {}
        )


def _said(where: Where) -> Any:
    return getattr(where, "__name__", "predicate") if callable(where) else patterns(where)


def backprop() -> Rule:
    """The true gradient."""
    return Rule("backprop")


def dfa(
    taps: Where,
    error: Where = "",
    feedback: feedbacks.Feedback | None = None,
    without_gradient: Sequence[str] = (),
    normalise: Where = (),
) -> Rule:
    """Direct Feedback Alignment (Nøkland 2016; Launay et al. 2020, eq. 3).

    Each tap's output h goes on as a constant, and learns from the error e = dL/do through a fixed random matrix: what
    lies between a tap and those before it is trained by ordinary autodiff from there. What lies above the last tap
    gets its true gradient. `error` is the path of the module whose output is o [*batch, n], by default the whole
    network's; `feedback` is the paper's `uniform()` by default.

    To the taps that `normalise` names the feedback comes down through a layer norm without parameters, as the true
    gradient of a residual stream does that is read through norms. Without one, the share of the feedback that points
    along the stream makes it longer at every step, and the norms above make that count for nothing. An activation
    between two taps grows likewise, for nothing above it answers.
    Raises UserError where `feedback` is no feedback rule.
    """
    feedback = feedbacks.uniform() if feedback is None else feedback
    if not isinstance(feedback, feedbacks.Feedback):
        raise UserError(f"unknown feedback rule {feedback!r}: give one of {', '.join(feedbacks.RULES)} of dfa.feedback")
    return Rule("dfa", taps, error, True, feedback, False, without_gradient, normalise)


def shallow(taps: Where) -> Rule:
    """The taps' outputs go on as constants and nothing is sent back: only what lies above the last of them learns."""
    return Rule("shallow", taps, cut=True)


def frozen(taps: Where) -> Rule:
    """The parameters of the taps stay at their random start; all others get their true gradient, through them."""
    return Rule("frozen", taps, freeze=True)
