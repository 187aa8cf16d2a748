"""The GPT as a t5x model: our parameters, our loss, our optimiser."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import clu.metrics
import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.linen.partitioning import AxisMetadata
from flax.traverse_util import flatten_dict, unflatten_dict
from t5x import gin_utils, metrics, models, optimizers

from pagnol_jax.convert import t5x as checkpoint
from pagnol_jax.data.mixture import Mixture
from pagnol_jax.data.seqio_vocabulary import ByteLevelVocabulary
from pagnol_jax.data.vocabulary import Tokenizer
from pagnol_jax.errors import UserError
from pagnol_jax.models import gpt
from pagnol_jax.models.config import GPTConfig
from pagnol_jax.models.masks import Mask
from pagnol_jax.train.optimizer import Optimizer
from pagnol_jax.train.step import batch_loss
from pagnol_jax.with_t5x.tasks import Windows, as_batch, tokenizer_file


class GPTModel(models.BaseTransformerModel):  # type: ignore[misc]
    """What `t5x.train` trains.

    config: called with `vocab_size` (the tokenizer's) gives the configuration. optimizer: its schedule is inside it;
    t5x is told the rate for its logs alone. microbatches: what the trainer is given as `num_microbatches`; t5x sums
    the gradients of the parts, so each part's loss is divided by it.

    The loss is the mean over counted targets of -log p plus `z_loss` * log(Z)^2: that of `train.step`.
    """

    def __init__(
        self,
        config: Callable[..., GPTConfig],
        mixture: Mixture,
        optimizer: Optimizer,
        z_loss: float = 0.0,
        microbatches: int = 1,
    ) -> None:
        tokenizer = Tokenizer.load(tokenizer_file(mixture))
        self.config = config(vocab_size=tokenizer.vocab_size)
        self.microbatches = microbatches
        self.FEATURE_CONVERTER_CLS = functools.partial(Windows, tokenizer.sep_id)
        vocabulary = ByteLevelVocabulary(tokenizer)
        wrapped = optimizers.OptaxWrapper(optimizer.transform)
        super().__init__(gpt.GPT(self.config), vocabulary, vocabulary, wrapped, z_loss=z_loss)

    def get_initial_variables(
        self, rng: jax.Array, input_shapes: Mapping[str, Any], input_types: Mapping[str, Any] | None = None
    ) -> Any:
        """`params`, and their logical axes as `params_axes`, where t5x looks for them.

        Raises UserError for windows longer than the positions that the model learns.
        """
        length = input_shapes["decoder_input_tokens"][1]
        if self.config.position.learned and length > self.config.max_length:
            raise UserError(f"windows of {length} tokens, but the model learns {self.config.max_length} positions")
        boxed = gpt.init(self.config, rng)
        return flax.core.freeze({"params": nn.unbox(boxed), "params_axes": params_axes(boxed)})

    def loss_fn(self, params: Any, batch: Mapping[str, jax.Array], dropout_rng: jax.Array | None) -> Any:
        """(loss, metrics); a key switches dropout on. Metrics are per counted target, over all of a summary's steps."""
        loss = batch_loss(self.config, params, as_batch(batch), dropout_rng, self._z_loss)
        tokens = jnp.array(batch["decoder_target_tokens"].size)
        summary = {
            "loss": clu.metrics.Average(total=loss.nats, count=loss.weight),
            "z_loss": clu.metrics.Average(total=loss.z_loss, count=loss.weight),
            "timing/seconds": metrics.Time(),
            "timing/steps_per_second": metrics.StepsPerTime.from_model_output(),
            "timing/tokens_per_second": metrics.TimeRate.from_model_output(numerator=tokens),
        }
        return (loss.nats + loss.z_loss) / (loss.weight * self.microbatches), summary

    def eval_fn(self, params: Any, batch: Mapping[str, jax.Array]) -> Any:
        """`loss_fn` of the whole batch, without dropout."""
        return self.loss_fn(params, batch, None)

    def _compute_logits(
        self, params: Any, batch: Mapping[str, jax.Array], dropout_rng: jax.Array | None = None
    ) -> jax.Array:
        """float32 [B, T, V]."""
        inputs, _, segment_ids, positions, _ = (jnp.asarray(x) for x in as_batch(batch))
        found = gpt.features(self.config, params, inputs, positions, Mask(segment_ids), dropout_key=dropout_rng)
        return gpt.project(*found[:2])

    def score_batch(self, params: Any, batch: Mapping[str, jax.Array], return_intermediates: bool = False) -> jax.Array:
        """Log-likelihood of every row's counted targets, float32 [B]."""
        if return_intermediates:
            raise UserError("this model sows no intermediates")
        logits, found = self._compute_logits(params, batch), as_batch(batch)
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, found.targets)
        return -(nats * found.weights).sum(axis=-1)

    def predict_batch_with_aux(self, params: Any, batch: Any, rng: Any = None, **unused: Any) -> Any:
        """Raises UserError: text is generated by `pagnol generate`, which reads these checkpoints converted."""
        raise UserError("t5x does not generate here: pagnol convert MODEL_DIR DEST --to pagnol, then pagnol generate")


def params_axes(boxed: Any) -> dict[str, Any]:
    """Logical axes of boxed parameters in the form of flax's `param_with_axes`, which t5x reads."""
    flat = flatten_dict(boxed)
    return unflatten_dict({(*path[:-1], f"{path[-1]}_axes"): AxisMetadata(x.names) for path, x in flat.items()})


def learning_rate(optimizer: Optimizer) -> optax.Schedule:
    """The schedule inside the optimiser, for t5x's logs."""
    return optimizer.schedule


def describe(
    model_dir: str, summary_writer: Any, step: int, config: Callable[..., GPTConfig], mixture: Mixture
) -> None:
    """t5x's `config.gin`, and beside it what makes its checkpoints readable here: `model.json`, `tokenizer.json`."""
    gin_utils.summarize_gin_config(model_dir, summary_writer, step)
    if jax.process_index() == 0:
        file = tokenizer_file(mixture)
        vocab_size = Tokenizer.load(file).vocab_size
        checkpoint.describe(Path(model_dir), config(vocab_size=vocab_size), file.read_text("utf-8"))
