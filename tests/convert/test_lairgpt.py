"""LairGPT's format against a PyTorch module written here from the paper and the format's names and shapes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from convert.toy_models import assert_same_bits, our_logits, random_params, randomise, tokens
from torch import nn

from pagnol_jax.convert import huggingface, lairgpt
from pagnol_jax.errors import UserError
from pagnol_jax.models import activations, positions
from pagnol_jax.models.config import GPTConfig

VOCAB, WIDTH, HEADS, LAYERS, LENGTH = 61, 24, 3, 2, 40


class PositionTable(nn.Module):
    def __init__(self):
        super().__init__()
        self.wpe = nn.Embedding(LENGTH, WIDTH)
        self.register_buffer("position_ids", torch.arange(LENGTH)[None])


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn_norm = nn.LayerNorm(WIDTH)
        self.self_attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.mlp_norm = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.attn_norm(x)
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        x = x + self.self_attention(hidden, hidden, hidden, attn_mask=future)[0]
        return x + self.mlp(self.mlp_norm(x))


class Decoder(nn.Module):
    """Pre-norm decoder, learned positions, untied projection without bias."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, WIDTH)
        self.positional_encoder = PositionTable()
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.final_norm = nn.LayerNorm(WIDTH)
        self.projector = nn.Linear(WIDTH, VOCAB, bias=False)

    @torch.no_grad()
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids) + self.positional_encoder.wpe.weight[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.projector(self.final_norm(x))


@pytest.fixture
def decoder() -> nn.Module:
    return randomise(Decoder())


@pytest.fixture
def file(decoder, tmp_path: Path) -> Path:
    path = tmp_path / "pagnol.pt"
    torch.save(decoder.state_dict(), path)
    return path


def test_logits_equal(decoder, file: Path):
    config, params = lairgpt.read(file, HEADS)
    ids = tokens(LENGTH, vocab=VOCAB)
    expected = decoder(torch.from_numpy(ids)).numpy()
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(our_logits(config, params, ids), expected, rtol=1e-5, atol=2e-5)


def test_written_file_loads_and_is_the_same(decoder, file: Path, tmp_path: Path):
    config, params = lairgpt.read(file, HEADS)
    lairgpt.write(tmp_path / "again.pt", config, params)
    written = torch.load(tmp_path / "again.pt", weights_only=True)
    for name, tensor in decoder.state_dict().items():
        assert torch.equal(tensor, written[name]), name
    Decoder().load_state_dict(written)  # strict: no name too many, none missing
    again, same = lairgpt.read(tmp_path / "again.pt", HEADS)
    assert again == config
    assert_same_bits(params, same)


def test_to_hugging_face_and_back(file: Path, tmp_path: Path):
    config, params = lairgpt.read(file, HEADS)
    assert huggingface.write(tmp_path / "gpt2", config, params) == "GPT2LMHeadModel"
    again, same, _ = huggingface.read(tmp_path / "gpt2")
    assert again == config
    assert_same_bits(params, same)


@pytest.mark.parametrize(("width", "heads"), [(768, 12), (1024, 16), (1280, 20), (1600, 25)])
def test_heads_follow_from_pagnol_widths(width: int, heads: int):
    found = {"embedding.weight": np.zeros((5, width)), "positional_encoder.wpe.weight": np.zeros((7, width))}
    config = lairgpt.infer_config(found | {"layers.0.attn_norm.weight": np.zeros(width)})
    assert (config.num_heads, config.num_layers, config.vocab_size, config.max_length) == (heads, 1, 5, 7)


def test_bfloat16_comes_back(tmp_path: Path):
    import ml_dtypes

    config = GPTConfig(VOCAB, LAYERS, WIDTH, HEADS, max_length=LENGTH, dropout_rate=0.1)
    params = random_params(config, dtype=ml_dtypes.bfloat16)
    lairgpt.write(tmp_path / "bf16.pt", config, params)
    again, same = lairgpt.read(tmp_path / "bf16.pt", HEADS)
    assert again == config
    assert_same_bits(params, same)


BROKEN = {
    "missing": (lambda s: s.pop("projector.weight"), "projector.weight missing"),
    "unknown": (
        lambda s: s.update({"projector.bias": torch.zeros(VOCAB)}),
        "the weights hold projector.bias",
    ),
    "shape": (lambda s: s.update({"final_norm.bias": torch.zeros(3)}), r"final_norm.bias has shape \(3,\)"),
    "no positions": (lambda s: s.pop("positional_encoder.wpe.weight"), "not a LairGPT state dictionary"),
    "layer gap": (lambda s: s.update({"layers.7.mlp.0.bias": torch.zeros(96)}), "missing from the weights"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_malformed_state(name: str, decoder, tmp_path: Path):
    change, message = BROKEN[name]
    state = decoder.state_dict()
    change(state)
    torch.save(state, tmp_path / "broken.pt")
    with pytest.raises(UserError, match=message):
        lairgpt.read(tmp_path / "broken.pt", HEADS)


def test_unknown_width_asks_for_heads(file: Path):
    with pytest.raises(UserError, match="width 24 is unknown: give --num_heads"):
        lairgpt.read(file)
    with pytest.raises(UserError, match="d_model 24 is not a multiple of num_heads 5"):
        lairgpt.read(file, 5)


class Payload:
    def __reduce__(self):
        return (print, ("code in a weights file ran",))


def test_no_code_in_a_file_runs(tmp_path: Path, capsys):
    torch.save({"embedding.weight": Payload()}, tmp_path / "bad.pt")
    with pytest.raises(UserError, match="not a file of torch tensors alone") as error:
        lairgpt.read(tmp_path / "bad.pt", HEADS)
    assert "\n" not in str(error.value)
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 truncated", b"hello"])
def test_corrupt_file(content: bytes, tmp_path: Path):
    (tmp_path / "bad.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.pt"):
        lairgpt.read(tmp_path / "bad.pt", HEADS)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"position": positions.rotary()}, "learned positions"),
        ({"tie_embeddings": True}, "an untied head"),
        ({"activation": activations.gelu_tanh()}, "exact GELU"),
        ({"num_kv_heads": 1}, "as many key heads"),
        ({"parallel": True}, "blocks in sequence"),
        ({"norm_epsilon": 1e-6}, "epsilon"),
        ({"d_ff": 24}, "feed-forward"),
    ],
)
def test_refusals(change: dict, reason: str, tmp_path: Path):
    config = GPTConfig(VOCAB, LAYERS, WIDTH, HEADS, **change)
    with pytest.raises(UserError, match=f"LairGPT cannot express this model: it needs .*{reason}"):
        lairgpt.write(tmp_path / "no.pt", config, random_params(config))
    assert not list(tmp_path.iterdir())
