"""Training in PyTorch: one step shared by a hand-written GPT and `transformers`' GPT-2."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
import transformers
from torch import nn

from benchmarks.peers.shapes import BETAS, CLIP_NORM, EPSILON, LEARNING_RATE, WEIGHT_DECAY, Peer, Shape


class Block(nn.Module):
    """x + attention(norm(x)), then + feed-forward(norm(x)), as GPT-2."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.norms[0](x)).view(batch, length, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each [B, H, T, D]
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))


class GPT(nn.Module):
    """Ids [B, T] -> logits [B, T, V]."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.d_model
        self.tokens, self.positions = nn.Embedding(shape.vocab_size, width), nn.Embedding(shape.length, width)
        self.blocks = nn.ModuleList(Block(width, shape.num_heads) for _ in range(shape.num_layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, shape.vocab_size, bias=False)
        for matrix in (p for p in self.parameters() if p.ndim == 2):
            nn.init.normal_(matrix, std=0.02)
        if shape.tied:
            self.head.weight = self.tokens.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def hand_written(shape: Shape, dtype: str) -> Peer:
    torch.manual_seed(0)
    model = GPT(shape)
    return _peer(model, model, shape, dtype)


def compiled(shape: Shape, dtype: str) -> Peer:
    """The hand-written model through `torch.compile`, on a GPU if there is one."""
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = GPT(shape).to(device)
    return _peer(model, torch.compile(model), shape, dtype, device)


def hugging_face(shape: Shape, dtype: str) -> Peer:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=shape.vocab_size,
        n_positions=shape.length,
        n_embd=shape.d_model,
        n_layer=shape.num_layers,
        n_head=shape.num_heads,
        activation_function="gelu",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        tie_word_embeddings=shape.tied,
        attn_implementation="sdpa",
        use_cache=False,
    )
    model = transformers.GPT2LMHeadModel(config).train()
    return _peer(model, lambda ids: model(input_ids=ids).logits, shape, dtype)


def _peer(
    model: nn.Module, logits: Callable[[torch.Tensor], torch.Tensor], shape: Shape, dtype: str, device: str = "cpu"
) -> Peer:
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, BETAS, EPSILON, WEIGHT_DECAY, fused=True)
    tokens = torch.from_numpy(shape.tokens()).to(device)
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].reshape(-1)
    autocast = torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            loss = F.cross_entropy(logits(inputs).view(-1, shape.vocab_size), targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        return loss.item()

    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return Peer(sum(p.numel() for p in model.parameters()), versions, step)
