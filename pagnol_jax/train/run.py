"""`train`: everything a run needs, from its gin bindings to its folder."""

import signal
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from pagnol_jax.data.batches import MixtureBatches
from pagnol_jax.data.mixture import Mixture
from pagnol_jax.data.prepare import open_batches
from pagnol_jax.dfa.rules import Rule
from pagnol_jax.errors import UserError, check_counts
from pagnol_jax.models.config import GPTConfig
from pagnol_jax.sharding import rules
from pagnol_jax.sharding.mesh import make_mesh
from pagnol_jax.train import hosts
from pagnol_jax.train.loop import Loop
from pagnol_jax.train.optimizer import Optimizer
from pagnol_jax.train.record import RunFolder, versions
from pagnol_jax.train.step import BACKPROP, BatchLoss, Steps, batch_loss, make_steps


def train(
    run_dir: str,
    model: Callable[..., GPTConfig],
    mixture: Mixture,
    optimizer: Optimizer,
    batch_size: int,
    length: int,
    total_steps: int,
    mesh: Callable[..., Mesh] = make_mesh,
    seed: int = 0,
    z_loss: float = 0.0,
    microbatches: int = 1,
    rule: Rule = BACKPROP,
    batch_loss: BatchLoss = batch_loss,
    evaluate_every: int = 500,
    evaluate_windows: int | None = None,
    checkpoint_every: int = 500,
    keep: int = 3,
    log_every: int = 10,
    config_text: Callable[[], str] = str,
) -> signal.Signals | None:
    """Trains one model, or goes on where the folder's last checkpoint stands; returns the signal that stopped it.

    model: called with `vocab_size` (the tokenizer's) gives the configuration.
    mesh: called with `devices` gives the mesh.
    config_text: gives the text of config.gin once all that it configures has been called.
    rule: what learns from what. batch_loss: how the loss is made.
    evaluate_windows: windows per corpus that an evaluation takes, spread over the split; None takes all.
    batch_size, length: sequences per step over all devices, tokens per sequence.
    Raises UserError for a mesh that does not divide the sizes, a folder of another run, or a loss that is not finite.
    """
    check_counts(total_steps=total_steps)
    check_counts(evaluate_every=evaluate_every, checkpoint_every=checkpoint_every, keep=keep, log_every=log_every)
    # The first host builds the cache if need be; the others open it, or build their own where they do not share it.
    data = hosts.first_before_others(lambda: open_batches(mixture, batch_size=batch_size, length=length, seed=seed))
    config, devices, steps = build(
        data.vocab_size,
        jax.devices(),
        model=model,
        optimizer=optimizer,
        batch_size=batch_size,
        length=length,
        mesh=mesh,
        seed=seed,
        z_loss=z_loss,
        microbatches=microbatches,
        rule=rule,
        batch_loss=batch_loss,
    )
    folder = RunFolder(run_dir)
    record = describe(folder.path.name, config, mixture, data, optimizer, devices, total_steps, rule)
    hosts.same(record)
    with folder.shared(record, data.cache.folder / "tokenizer.json", config_text()):
        loop = Loop(
            steps,
            data,
            devices,
            folder,
            total_steps=total_steps,
            evaluate_every=evaluate_every,
            evaluate_windows=evaluate_windows,
            checkpoint_every=checkpoint_every,
            keep=keep,
            log_every=log_every,
            flops_per_token=config.flops_per_token(attention_length=length),
            dtype=config.dtype,
        )
        return loop.run(seed)


class Built(NamedTuple):
    """A model on a mesh, and its steps."""

    config: GPTConfig
    mesh: Mesh
    steps: Steps


def build(
    vocab_size: int,
    devices: Sequence[Any],
    *,
    model: Callable[..., GPTConfig],
    optimizer: Optimizer,
    batch_size: int,
    length: int,
    mesh: Callable[..., Mesh] = make_mesh,
    seed: int = 0,
    z_loss: float = 0.0,
    microbatches: int = 1,
    rule: Rule = BACKPROP,
    batch_loss: BatchLoss = batch_loss,
) -> Built:
    """The steps of a run on `devices`, which need not be at hand: `train` runs them, `pagnol tpu` compiles them.

    Raises UserError for a mesh that does not divide the sizes.
    """
    check_counts(batch_size=batch_size, length=length, microbatches=microbatches)
    placed = mesh(devices=devices)
    config = model(vocab_size=vocab_size)
    _check_sizes(config, placed, batch_size, length, microbatches)
    options: dict[str, Any] = {
        "z_loss": z_loss,
        "microbatches": microbatches,
        "seed": seed,
        "rule": rule,
        "batch_loss": batch_loss,
    }
    steps = make_steps(config, optimizer, placed, **options)
    return Built(config, placed, steps)


def _check_sizes(config: GPTConfig, mesh: Mesh, batch_size: int, length: int, microbatches: int) -> None:
    batch = {"batch": ("batch_size", batch_size), "length": ("length", length)}
    rules.check(batch | config.sharded_sizes(), mesh)
    if batch_size % microbatches:
        raise UserError(f"batch_size {batch_size} is not a multiple of microbatches {microbatches}")
    if config.position.learned and length > config.max_length:
        raise UserError(f"length {length} is more than the {config.max_length} positions that the model learns")


def describe(
    name: str,
    config: GPTConfig,
    mixture: Mixture,
    data: MixtureBatches,
    optimizer: Optimizer,
    mesh: Mesh,
    total_steps: int,
    rule: Rule,
) -> dict[str, Any]:
    """run.json: what the scaling laws and a later reader need to know. FLOPs are per token, of training."""
    non_embedding = config.flops_per_token(embedding=False)
    return {
        "name": name,
        "parameters": config.parameters(),
        "parameters_non_embedding": config.parameters(embedding=False),
        "flops_per_token": config.flops_per_token(),
        "flops_per_token_non_embedding": non_embedding,
        "flops_per_token_attention": config.flops_per_token(False, data.length) - non_embedding,
        "tokenizer": {"vocab_size": data.vocab_size, "fingerprint": data.cache.tokenizer_fingerprint},
        "bytes_per_token": data.bytes_per_token,
        "corpora": data.cache.manifest["sources"],
        "rates": dict(mixture.rates),
        "batches": data.fingerprint,
        "tokens_per_step": data.batch_size * data.length,
        "length": data.length,
        "total_steps": total_steps,
        "schedule": optimizer.schedule_name,
        "seed": data.seed,
        "mesh": dict(mesh.shape),
        "device": jax.devices()[0].device_kind,
        "versions": versions(),
        "model": config.to_json(),
        "rule": rule.to_json(),
    }
