"""Memory and time of a step in closed form: rough, but quick enough to rank hundreds of ways to lay it out."""

from typing import NamedTuple

from pagnol_jax.models.config import GPTConfig
from pagnol_jax.scaling.chips import Chip
from pagnol_jax.train.loss import CHUNK


class Layout(NamedTuple):
    """How a step is laid out: sizes of the mesh's axes, what blocks keep for their gradient, gradient accumulations."""

    data: int
    fsdp: int
    tensor: int
    sequence: int
    remat: str | None
    microbatches: int

    @property
    def mesh(self) -> dict[str, int]:
        """{axis: size}."""
        return {"data": self.data, "fsdp": self.fsdp, "tensor": self.tensor, "sequence": self.sequence}

    @property
    def chips(self) -> int:
        """In the mesh."""
        return self.data * self.fsdp * self.tensor * self.sequence


class Estimate(NamedTuple):
    """Bytes of a chip's memory, and seconds of a step if computation, memory and messages overlap."""

    memory: float
    seconds: float


def estimate(config: GPTConfig, chip: Chip, layout: Layout, batch_size: int, length: int) -> Estimate:
    """What a chip holds and does in a step of `batch_size` sequences over all chips."""
    tokens = batch_size * length / layout.chips * layout.tensor  # that a chip sees, shared with its tensor group
    memory = _state_bytes(config, layout) + _activation_bytes(config, layout, tokens / layout.microbatches)
    compute = _flops(config, layout, tokens, length) / chip.peak_flops_per_second
    messages = _sent_bytes(config, layout, tokens) / (2 * chip.link_bandwidth)
    hbm = _moved_bytes(config, layout, tokens) / chip.memory_bandwidth
    return Estimate(memory, max(compute, messages, hbm) + 0.1 * sorted((compute, messages, hbm))[1])


def _state_bytes(config: GPTConfig, layout: Layout) -> float:
    """Float32 parameters, two moments and gradients, sharded, and a second set of gradients where they accumulate."""
    sets = 4 + (layout.microbatches > 1)
    return 4 * sets * config.parameters() / (layout.fsdp * layout.sequence * layout.tensor)


def _activation_bytes(config: GPTConfig, layout: Layout, tokens: float) -> float:
    """What the blocks keep, one block's own needs, and the loss: a chunk of logits, the head and its gradient."""
    d = config.d_model
    block = _block_bytes(config, layout)
    vocab = config.padded_vocab / layout.tensor
    loss = vocab * (10 * min(CHUNK["tpu"], tokens) + 8 * d)
    return tokens * (config.num_layers * block[layout.remat] + 6 * block["dots"]) + loss


def _block_bytes(config: GPTConfig, layout: Layout) -> dict[str | None, float]:
    """What a block keeps of each token, by remat."""
    d, kv = config.d_model, config.kv_heads * config.head_dim
    inner = (1 + config.activation.gated) * config.feed_forward
    lanes = max(1, 128 / config.head_dim)  # a head narrower than a tile lies in a whole one
    split = ((2 * d + 2 * kv) * lanes + inner) / layout.tensor  # query and attended, keys and values, feed-forward
    return {"full": 2 * d, "dots": 2 * (2 * d + split), None: 4 * (3 * d + split) + 2 * inner / layout.tensor}


def _moved_bytes(config: GPTConfig, layout: Layout, tokens: float) -> float:
    """HBM traffic: parameters and two moments read and written and gradients read, float32; gathered bfloat16 weights
    written and read in each direction; some twelve passes over what blocks keep; for every chunk of logits four over
    these in float32 and three over the head's gradient."""
    optimizer = 4 * 8 * config.parameters() / (layout.fsdp * layout.sequence * layout.tensor)
    weights = 2 * 6 * layout.microbatches * config.parameters() / layout.tensor
    blocks = 12 * tokens * config.num_layers * _block_bytes(config, layout)["dots"]
    chunks = max(layout.microbatches, tokens / CHUNK["tpu"])
    loss = 4 * (4 * tokens + 3 * chunks * config.d_model) * config.padded_vocab / layout.tensor
    return optimizer + weights + blocks + loss


def _flops(config: GPTConfig, layout: Layout, tokens: float, length: int) -> float:
    block = config.flops_per_token(embedding=False) + 6 * config.num_layers * config.d_model * length
    again = {"full": 4 / 3, "dots": 1.0, None: 1.0}[layout.remat]
    return tokens / layout.tensor * (block * again + config.flops_per_token() - config.flops_per_token(embedding=False))


def _sent_bytes(config: GPTConfig, layout: Layout, tokens: float) -> float:
    """bfloat16 weights gathered twice a microbatch and their gradients scattered once; gradients summed over data;
    activations summed four times a layer over tensor; keys and values exchanged over sequence."""
    weights = 2 * config.parameters() / layout.tensor
    shards = layout.fsdp * layout.sequence
    fsdp = 3 * layout.microbatches * weights * (shards - 1) / shards
    data = 2 * weights / shards * (layout.data - 1) / layout.data
    tensor = 4 * config.num_layers * 2 * 2 * config.d_model * tokens * (layout.tensor - 1) / layout.tensor
    sequence = 8 * config.num_layers * 2 * config.d_model * tokens * (layout.sequence - 1) / layout.sequence
    return fsdp + data + tensor + sequence
