"""Training of NeRF by any rule: the loss, the step, and the run.

Adam with an exponential decay at every step, the rays of one image a step (Mildenhall et al. 2020; the settings of
Launay et al. 2020 are in gin/dfa/nerf).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from pagnol_jax import dfa
from pagnol_jax.data.zoo.views import Scene, Views
from pagnol_jax.dfa.rules import Rule
from pagnol_jax.errors import UserError, check_counts
from pagnol_jax.models.zoo import nerf, rendering
from pagnol_jax.models.zoo.rendering import Rays, Sampling
from pagnol_jax.train import study
from pagnol_jax.train.zoo.image_quality import psnr
from pagnol_jax.train.zoo.nerf_views import Camera, render_view


class Problem(NamedTuple):
    """A scene, the network that is to show it (twice: coarse and fine), and where its rays are sampled."""

    scene: Scene
    model: nerf.Nerf
    sampling: Sampling


class Batch(NamedTuple):
    """R pixels of one view: pose [3, 4], columns, rows [R] int32, colours [R, 3]."""

    pose: np.ndarray
    columns: np.ndarray
    rows: np.ndarray
    colours: np.ndarray


@flax.struct.dataclass
class State:
    """feedback: the matrices of the rule, which no update changes."""

    step: jax.Array
    params: Any
    optimizer: Any
    feedback: Any


class Steps(NamedTuple):
    """init(key) -> State; update(state, batch) -> (State, {name: scalar}), jitted."""

    init: Callable[[jax.Array], State]
    update: Callable[[State, Batch], tuple[State, dict[str, jax.Array]]]


def loss(
    problem: Problem, params: Any, rays: Rays, colours: Any, key: jax.Array | None
) -> tuple[jax.Array, list[jax.Array]]:
    """(coarse + fine, [coarse, fine]): mean squared errors of what rays see, over rays and channels."""
    seen = rendering.render(*nerf.fields(problem.model, params), rays, problem.sampling, key)
    coarse, fine = (jnp.mean((pixel.colour - colours) ** 2) for pixel in seen)
    return coarse + fine, [coarse, fine]


def make_steps(
    problem: Problem, rule: Rule, optimizer: optax.GradientTransformation, rays: int, seed: int = 0
) -> Steps:
    """The steps of a run. Raises UserError where the rule does not fit the network."""
    views = problem.scene.train

    def objective(params: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, Any]:
        seen = camera(views, problem.sampling).rays(batch.pose, batch.columns, batch.rows)
        return loss(problem, params, seen, batch.colours, key)

    def init(key: jax.Array) -> State:
        weights, matrices = jax.random.split(key)
        params = nerf.init(problem.model, weights)
        example = sample(views, rays, seed, 0)
        feedback = nn.unbox(dfa.init(objective, rule, matrices)(params, example, key))
        return State(jnp.zeros((), jnp.int32), params, optimizer.init(params), feedback)

    @jax.jit
    def update(state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        gradient = dfa.value_and_grad(objective, rule, state.feedback, has_aux=True)
        (total, errors), grads = gradient(state.params, batch, key)
        updates, opt = optimizer.update(grads, state.optimizer, state.params)
        told = {"loss": total, "psnr": psnr(errors[1]), "psnr_coarse": psnr(errors[0])}
        params = optax.apply_updates(state.params, updates)
        return State(state.step + 1, params, opt, state.feedback), told

    return Steps(init, update)


def camera(views: Views, sampling: Sampling) -> Camera:
    return Camera(views.size, views.focal, sampling.ndc)


def sample(views: Views, rays: int, seed: int, step: int, crop_steps: int = 0) -> Batch:
    """The pixels of a step: `rays` different ones of one view, a pure function of (seed, step)."""
    height, width = views.size
    above, left = (height // 4, width // 4) if step < crop_steps else (0, 0)
    rng = np.random.default_rng((seed, step))
    view = rng.integers(len(views.images))
    pixels = rng.choice((height - 2 * above) * (width - 2 * left), rays, replace=False)
    rows, columns = np.divmod(pixels, width - 2 * left)
    rows, columns = rows + above, columns + left
    return Batch(views.poses[view], columns, rows, views.images[view, rows, columns])


def adam(learning_rate: float, decay_steps: int) -> optax.GradientTransformation:
    """Adam whose rate falls to a tenth over every `decay_steps`, a little at every step."""
    return optax.adam(optax.exponential_decay(learning_rate, decay_steps, 0.1))


def train(
    run_dir: str,
    problem: Problem,
    rule: Rule,
    rays: int,
    learning_rate: float,
    decay_steps: int,
    total_steps: int,
    crop_steps: int = 0,
    seed: int = 0,
    evaluate_every: int = 5000,
    evaluate_views: int = 4,
    evaluate_stride: int = 8,
    checkpoint_every: int = 5000,
    log_every: int = 50,
    config_text: Callable[[], str] = str,
) -> State:
    """Trains a coarse and a fine network by `rule`, or goes on where the folder's last checkpoint stands.

    rays: pixels a step, all of one view. crop_steps: the first steps, which see the middle of the views alone (half of
    either side), so that a background of nothing does not silence the densities before they have found the scene
    (Mildenhall et al. 2020, code). evaluate_views: test views, spread over all, of which every
    `evaluate_stride`-th pixel of every such row is rendered.
    Raises UserError for numbers that make no sense; UserError, and Stopped, as `study.fit` does.
    """
    check_counts(evaluate_views=evaluate_views, evaluate_stride=evaluate_stride)
    height, width = problem.scene.train.size
    if not 0 < rays <= (pixels := height * width // 4):
        raise UserError(f"{rays} rays a step are not from 1 to a quarter of a view's pixels, {pixels}")
    steps = make_steps(problem, rule, adam(learning_rate, decay_steps), rays, seed)
    state = steps.init(jax.random.key(seed))
    record = describe(problem, rule) | {"rays": rays, "crop_steps": crop_steps, "seed": seed}
    record["optimizer"] = {"adam": learning_rate, "decay_steps": decay_steps}
    held_out = spread(problem.scene.test, evaluate_views)

    def evaluate(state: State) -> tuple[State, dict[str, float]]:
        return state, score(problem, state.params, held_out, evaluate_stride)

    return study.fit(
        run_dir,
        state,
        steps.update,
        total_steps,
        record=record,
        evaluate=evaluate,
        evaluate_every=evaluate_every,
        checkpoint_every=checkpoint_every,
        log_every=log_every,
        batch=lambda step: sample(problem.scene.train, rays, seed, step, crop_steps),
        config_text=config_text,
    )


def spread(views: Views, count: int) -> Views:
    """`count` of the views, from the first to the last."""
    chosen = np.unique(np.linspace(0, len(views.names) - 1, count).round().astype(int))
    return Views([views.names[i] for i in chosen], views.images[chosen], views.poses[chosen], views.focal)


def score(problem: Problem, params: Any, views: Views, stride: int) -> dict[str, float]:
    """Mean PSNR over views, of the fine and the coarse network."""
    place = camera(views, problem.sampling)
    found = [
        render_view(problem.model, problem.sampling, params, place, pose, stride).psnr(truth[::stride, ::stride])
        for pose, truth in zip(views.poses, views.images, strict=True)
    ]
    fine, coarse = np.mean(found, axis=0)
    return {"validation_psnr": fine, "validation_psnr_coarse": coarse}


def describe(problem: Problem, rule: Rule) -> dict[str, Any]:
    """What run.json tells of a run's problem and rule."""
    views = problem.scene.train
    return {
        "study": "nerf",
        "scene": {"name": problem.scene.name, "views": len(views.names), "size": list(views.size)},
        "model": problem.model.describe(),
        "sampling": problem.sampling._asdict(),
        "rule": rule.to_json(),
    }
