"""Training rules as values: what is cut, and what learns from what."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from pagnol_jax.dfa import feedback as feedbacks
from pagnol_jax.dfa.select import Where, patterns
from pagnol_jax.errors import UserError


def identity(x: jax.Array) -> jax.Array:
    """x."""
    return x


def normalised(x: jax.Array) -> jax.Array:
    """[..., d] less its mean and over its deviation: no feedback through it can make a residual stream longer, which
    ahead of a layer norm is all that an error's share along the stream would do."""
    return jax.nn.standardize(x)


class Rule(NamedTuple):
    """How a network learns; make one by the functions below.

    taps: modules whose outputs are feedback points. error: the module whose output carries the error.
    through: a function of a tap's output; the feedback lands on its value instead.
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
    through: Callable[[jax.Array], jax.Array] = identity

    def to_json(self) -> dict[str, Any]:
        """What a record says of it."""
        named = {"name": self.name, "taps": _said(self.taps)}
        return named | (
            {"error": _said(self.error), "feedback": self.feedback.name, "through": self.through.__name__}
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
    through: Callable[[jax.Array], jax.Array] = identity,
) -> Rule:
    """Direct Feedback Alignment (Nøkland 2016; Launay et al. 2020, eq. 3).

    Each tap's output h goes on as a constant, and learns from the error e = dL/do through a fixed random matrix: what
    lies between a tap and those before it is trained by ordinary autodiff from there. What lies above the last tap
    gets its true gradient. `error` is the path of the module whose output is o [*batch, n], by default the whole
    network's; `feedback` is the paper's `uniform()` by default. `through`, say `normalised`, stands between an output
    and its feedback: what is sent back is carried down through it first.
    Raises UserError where `feedback` is no feedback rule.
    """
    feedback = feedbacks.uniform() if feedback is None else feedback
    if not isinstance(feedback, feedbacks.Feedback):
        raise UserError(f"unknown feedback rule {feedback!r}: give one of {', '.join(feedbacks.RULES)} of dfa.feedback")
    return Rule("dfa", taps, error, True, feedback, False, without_gradient, through)


def shallow(taps: Where) -> Rule:
    """The taps' outputs go on as constants and nothing is sent back: only what lies above the last of them learns."""
    return Rule("shallow", taps, cut=True)


def frozen(taps: Where) -> Rule:
    """The parameters of the taps stay at their random start; all others get their true gradient, through them."""
    return Rule("frozen", taps, freeze=True)
