"""Attention over a mesh equals attention on one device: batch, heads and length divided, alone and together."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.kernel_cases import SCHEMES, expect, inputs, make_mask, run, worst

from pagnol_jax.models import gpt, positions
from pagnol_jax.models.attention import attend
from pagnol_jax.models.config import GPTConfig
from pagnol_jax.models.masks import Mask
from pagnol_jax.sharding.mesh import make_mesh

# (mesh, mask, scheme, heads): all-to-all of every head; keys replicated over `tensor` and gathered along the length;
# heads that the length's parts do not divide, with either kernel; devices whose heads end amid a group.
CASES = [
    ({"data": 2, "tensor": 2, "sequence": 2}, "packed", "none", (4, 4)),
    ({"data": 2, "tensor": 2, "sequence": 2}, "packed prefix", "alibi", (4, 1)),
    ({"data": 2, "sequence": 4}, "packed", "none", (5, 5)),
    ({"data": 2, "sequence": 4}, "prefix", "alibi", (5, 5)),
    ({"data": 1, "tensor": 4, "sequence": 2}, "causal", "none", (12, 6)),
]
MORE = [
    ({"data": 2, "fsdp": 4}, "packed", "rotary", (3, 3)),
    ({"data": 2, "tensor": 4}, "packed prefix", "none", (12, 6)),
    ({"data": 1, "tensor": 4, "sequence": 2}, "packed prefix", "alibi", (8, 2)),
    ({"data": 2, "sequence": 4}, "causal", "rotary", (12, 6)),
    ({"data": 1, "sequence": 8}, "packed", "none", (8, 1)),
    ({"data": 1, "sequence": 8}, "packed prefix", "alibi", (25, 5)),
    ({"data": 1, "tensor": 5, "sequence": 1}, "causal", "none", (25, 25)),
]


def check(case: tuple, kernel: str = "fused", length: int = 512) -> None:
    sizes, mask_name, scheme, heads = case
    arrays, mask = inputs(2, length, heads, 8, "float32"), make_mask(mask_name, 2, length)
    devices = jax.devices()[: int(np.prod(list(sizes.values())))]
    with jax.set_mesh(make_mesh(**sizes, devices=devices)):
        values = run(kernel, arrays, mask, SCHEMES[scheme])
    assert worst(values, expect(arrays, mask, SCHEMES[scheme])) < 1e-5


@pytest.mark.parametrize("case", CASES, ids=str)
def test_fused_on_a_mesh(case: tuple) -> None:
    check(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", MORE, ids=str)
def test_fused_on_more_meshes(case: tuple) -> None:
    check(case, length=1024)


def test_plain_on_a_mesh_that_splits_the_length() -> None:
    check(({"data": 2, "sequence": 4}, "packed prefix", "alibi", (5, 5)), kernel="plain", length=256)


def collectives(heads: tuple[int, int], sizes: dict[str, int]) -> set[str]:
    arrays = inputs(2, 512, heads, 8, "float32")[:3]
    with jax.set_mesh(make_mesh(**sizes)):
        program = str(jax.make_jaxpr(lambda q, k, v: attend(q, k, v, Mask(), None, "fused"))(*arrays))
    return {name for name in ("all_to_all", "all_gather", "psum", "ppermute") if f" {name}[" in program}


def test_what_travels() -> None:
    """Nothing for batch and heads; along the length heads are traded where they divide, else keys are gathered."""
    assert collectives((4, 4), {"data": 2, "tensor": 4}) == set()
    assert collectives((4, 4), {"data": 2, "sequence": 4}) == {"all_to_all"}
    assert collectives((4, 1), {"data": 2, "sequence": 4}) == {"all_to_all", "all_gather"}
    assert collectives((5, 5), {"data": 2, "sequence": 4}) == {"all_gather"}


def test_a_model_on_a_mesh_with_fused_attention() -> None:
    """Scanned and rematerialised: the same loss and gradients as one device with plain attention."""
    config = GPTConfig(
        vocab_size=32, num_layers=2, d_model=32, num_heads=4, num_kv_heads=2, max_length=128, remat="dots"
    )
    config = dataclasses.replace(config, position=positions.alibi())
    params = jax.jit(lambda key: nn.unbox(gpt.init(config, key)))(jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (4, 128), 0, 32)

    def gradients(kernel: str):
        model = gpt.GPT(dataclasses.replace(config, attention=kernel))

        def loss(params):
            logits = model.apply({"params": params}, tokens)
            return -jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], axis=-1).mean()

        return jax.jit(jax.value_and_grad(loss))(params)

    expected = jax.device_get(gradients("plain"))
    with jax.set_mesh(make_mesh(data=2, tensor=2, sequence=2)):
        values = jax.device_get(gradients("fused"))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), values, expected)


@pytest.mark.slow
def test_32768_slots_over_eight_devices() -> None:
    """As on one device, by the same kernel; minutes, as it is interpreted."""
    arrays, mask = inputs(1, 32_768, (1, 1), 8, "float32"), make_mask("packed", 1, 32_768)
    expected = run("fused", arrays, mask, SCHEMES["none"])
    with jax.set_mesh(make_mesh(data=1, sequence=8)):
        assert worst(run("fused", arrays, mask, SCHEMES["none"]), expected) < 1e-5
