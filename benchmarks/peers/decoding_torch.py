"""PyTorch decoders, in a process kept alive: one JSON request a line on stdin, one answer a line.

`recompute` is LairGPT's method (no cache: each token runs the whole prefix again, vocabulary projection
included), `handwritten` a GPT with fused projections, a preallocated cache and scaled_dot_product_attention,
`transformers` GPT-2's `generate` with its cache. Run with OMP_WAIT_POLICY=PASSIVE: on a busy machine PyTorch
is otherwise slower than it can be.
"""

import json
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

Decode = Callable[[torch.Tensor, int], torch.Tensor]


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor, cache: torch.Tensor | None, start: int) -> torch.Tensor:
        """x [B, T, d]; cache [2, B, H, S, D] is written at slots start..start+T-1."""
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if cache is not None:
            stop = start + length
            cache[0, :, :, start:stop], cache[1, :, :, start:stop] = key, value
            key, value = cache[0, :, :, :stop], cache[1, :, :, :stop]
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=length > 1)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Handwritten(nn.Module):
    def __init__(self, layers: int, width: int, heads: int, vocab: int, context: int) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.tokens, self.positions = (
            nn.Embedding(vocab, width),
            nn.Embedding(context, width),
        )
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocab, bias=False)

    def features(self, ids: torch.Tensor, caches: torch.Tensor | None, start: int) -> torch.Tensor:
        """ids [B, T] -> [B, T, d]."""
        x = self.tokens(ids) + self.positions(torch.arange(start, start + ids.shape[1]))
        for layer, block in enumerate(self.blocks):
            x = block(x, None if caches is None else caches[layer], start)
        return self.norm(x)

    @torch.inference_mode()
    def cached(self, prompts: torch.Tensor, new_tokens: int) -> torch.Tensor:
        batch, length = prompts.shape
        shape = (
            len(self.blocks),
            2,
            batch,
            self.heads,
            length + new_tokens,
            self.width // self.heads,
        )
        caches = torch.empty(shape)
        step, out = prompts, []
        for _ in range(new_tokens):
            start = length + len(out) - 1 if out else 0
            step = self.head(self.features(step, caches, start)[:, -1]).argmax(-1, keepdim=True)
            out.append(step)
        return torch.cat(out, 1)

    @torch.inference_mode()
    def recompute(self, prompts: torch.Tensor, new_tokens: int) -> torch.Tensor:
        ids = prompts
        for _ in range(new_tokens):
            logits = self.head(self.features(ids, None, 0))
            ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], 1)
        return ids[:, prompts.shape[1] :]


def transformers_decoder(layers: int, width: int, heads: int, vocab: int, context: int) -> Decode:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocab,
        n_positions=context,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=0,
        attn_implementation="sdpa",
    )
    model = GPT2LMHeadModel(config).eval()

    @torch.inference_mode()
    def decode(prompts: torch.Tensor, new_tokens: int) -> torch.Tensor:
        options = {"max_new_tokens": new_tokens, "do_sample": False, "use_cache": True}
        ids = model.generate(prompts, attention_mask=torch.ones_like(prompts), **options)
        return ids[:, prompts.shape[1] :]

    return decode


def main() -> None:
    method, shape = sys.argv[1], json.loads(sys.argv[2])
    torch.manual_seed(0)
    decode: Decode
    if method == "transformers":
        decode = transformers_decoder(**shape)
    else:
        model = Handwritten(**shape).eval()
        decode = model.cached if method == "handwritten" else model.recompute
    for line in sys.stdin:
        request = json.loads(line)
        prompts = torch.tensor(request["prompts"])
        start = time.perf_counter()
        tokens = decode(prompts, request["new_tokens"])
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "shape": list(tokens.shape)}), flush=True)


if __name__ == "__main__":
    main()
