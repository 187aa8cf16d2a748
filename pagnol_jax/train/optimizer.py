"""AdamW and its learning-rate schedules, as values."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
import optax.contrib

from pagnol_jax.errors import UserError

# Norms, biases and position tables are not decayed (GPT-3; Brown et al. 2020, appendix B keeps to matrices).
DECAYED = ("kernel", "head", "embedding")


class Optimizer(NamedTuple):
    """An optax transformation with the schedule inside it, kept apart so that it can be recorded.

    scale: what the transformation multiplies the schedule by, of its state.
    """

    transform: optax.GradientTransformation
    schedule: optax.Schedule
    schedule_name: str
    scale: Callable[[Any], Any] = lambda state: 1.0


class Schedule(NamedTuple):
    """A named optax schedule: step -> learning rate."""

    name: str
    function: optax.Schedule


def warmup_cosine(peak: float, warmup_steps: int, total_steps: int, final: float = 0.1) -> Schedule:
    """Linear warm-up to `peak`, then half a cosine down to `final` * peak at `total_steps` (PAGnol, GPT-3)."""
    _check_steps(warmup_steps, total_steps)
    decay = optax.cosine_decay_schedule(peak, total_steps - warmup_steps, alpha=final)
    return Schedule("cosine", _after_warmup(peak, warmup_steps, decay))


def warmup_stable_decay(
    peak: float, warmup_steps: int, total_steps: int, decay_steps: int, final: float = 0.0
) -> Schedule:
    """Linear warm-up, a plateau, and a linear decay over the last `decay_steps` (Hu et al. 2024, MiniCPM)."""
    _check_steps(warmup_steps + decay_steps, total_steps)
    decay = optax.linear_schedule(peak, final * peak, decay_steps, total_steps - warmup_steps - decay_steps)
    return Schedule("warmup_stable_decay", _after_warmup(peak, warmup_steps, decay))


def _after_warmup(peak: float, warmup_steps: int, after: optax.Schedule) -> optax.Schedule:
    # Step 0 already learns: the ramp ends at peak on step `warmup_steps`, without a first step of rate zero.
    warmup = optax.linear_schedule(peak / (warmup_steps + 1), peak, warmup_steps)
    return optax.join_schedules([warmup, after], [warmup_steps])


def _check_steps(least: int, total_steps: int) -> None:
    if least >= total_steps:
        raise UserError(f"a run of {total_steps} steps is too short for {least} steps of warm-up and decay")


def adamw(
    schedule: Schedule,
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.1,
    clip_norm: float = 1.0,
) -> Optimizer:
    """AdamW (Loshchilov and Hutter 2019) after clipping by global norm; moments in float32."""
    transform = optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.adamw(schedule.function, b1, b2, eps, weight_decay=weight_decay, mask=decayed),
    )
    return Optimizer(transform, schedule.function, schedule.name)


def adamw_on_plateau(
    peak: float,
    warmup_steps: int,
    window: int,
    factor: float = 0.2,
    patience: int = 1,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float = 1.0,
) -> Optimizer:
    """AdamW whose rate stays at `peak` after warm-up and shrinks by `factor` when the mean training loss of `window`
    steps has not gone down for more than `patience` windows (Launay et al. 2020, section 4.4, per epoch there)."""
    schedule = warmup_plateau(peak, warmup_steps)
    steps = adamw(schedule, b1, b2, eps, weight_decay, clip_norm).transform
    # PyTorch's scheduler, which the paper used, shrinks after more than `patience` windows, optax at as many.
    shrink = optax.contrib.reduce_on_plateau(factor, patience + 1, accumulation_size=window)
    return Optimizer(optax.chain(steps, shrink), schedule.function, schedule.name, lambda state: state[1].scale)


def warmup_plateau(peak: float, warmup_steps: int) -> Schedule:
    """Linear warm-up to `peak`, and no decay."""
    return Schedule("plateau", _after_warmup(peak, warmup_steps, optax.constant_schedule(peak)))


def decayed(params: Any) -> Any:
    """Tree of booleans: which parameters weight decay acts on."""

    def is_decayed(path: tuple, _: Any) -> bool:
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        return names[-1] in DECAYED and "position_embedding" not in names

    return jax.tree_util.tree_map_with_path(is_decayed, params)
