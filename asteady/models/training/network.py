"""The generation model's network: a small llama, written so that llama.cpp computes the same.

Rotary pairs are interleaved (2i, 2i+1), which is what llama.cpp's "llama" architecture expects
of unpermuted weights, so the exporter copies every matrix as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """The hyper-parameters that the GGUF metadata repeats; every dimension a multiple of 32."""

    vocab: int = 3072
    width: int = 256
    layers: int = 6
    heads: int = 4
    hidden: int = 704
    context: int = 2048
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5

    def as_dict(self) -> dict[str, float]:
        return asdict(self)

    @property
    def head_width(self) -> int:
        return self.width // self.heads


class RmsNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


def rotary_table(shape: Shape, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of shape (length, head_width // 2)."""
    half = shape.head_width // 2
    inverse = shape.rope_theta ** (-torch.arange(half, dtype=torch.float32) / half)
    angles = torch.arange(length, dtype=torch.float32)[:, None] * inverse[None, :]
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions to x of shape (batch, heads, length, head_width)."""
    pairs = x.unflatten(-1, (-1, 2))
    a, b = pairs[..., 0], pairs[..., 1]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention, written out for short sequences.

    Up to 256 positions the fused kernel's backward pass on a CPU takes several times as long as
    these two batched products; beyond that it wins.
    """
    length = q.shape[2]
    if length > 256:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    later = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)
    return torch.softmax(scores.masked_fill(later, float("-inf")), dim=-1) @ v


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.attn_norm = RmsNorm(shape.width, shape.norm_eps)
        self.attn_q = nn.Linear(shape.width, shape.width, bias=False)
        self.attn_k = nn.Linear(shape.width, shape.width, bias=False)
        self.attn_v = nn.Linear(shape.width, shape.width, bias=False)
        self.attn_output = nn.Linear(shape.width, shape.width, bias=False)
        self.ffn_norm = RmsNorm(shape.width, shape.norm_eps)
        self.ffn_gate = nn.Linear(shape.width, shape.hidden, bias=False)
        self.ffn_up = nn.Linear(shape.width, shape.hidden, bias=False)
        self.ffn_down = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        n = self.attn_norm(x)
        q, k, v = (
            part(n).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.attn_q, self.attn_k, self.attn_v)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        mixed = attend(q, k, v)
        x = x + self.attn_output(mixed.transpose(1, 2).flatten(-2))
        n = self.ffn_norm(x)
        return x + self.ffn_down(F.silu(self.ffn_gate(n)) * self.ffn_up(n))


class Llama(nn.Module):
    """Token ids of shape (batch, length) to hidden states; `token_embd` is also the output."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.vocab, shape.width)
        self.blk = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.output_norm = RmsNorm(shape.width, shape.norm_eps)
        cos, sin = rotary_table(shape, shape.context)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        nn.init.normal_(self.token_embd.weight, std=0.02)
        for name, weight in self.named_parameters():
            if weight.ndim != 2 or name.startswith("token_embd"):
                continue
            std = 1 / math.sqrt(weight.shape[1])
            # Residual outputs start small, so that depth does not blow up the sum.
            if name.endswith(("attn_output.weight", "ffn_down.weight")):
                std /= math.sqrt(2 * self.shape.layers)
            nn.init.normal_(weight, std=std)

    def hidden(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        x = self.token_embd(tokens)
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.bfloat16)
        cos = self.cos[:length].to(x.dtype)  # type: ignore[index]
        sin = self.sin[:length].to(x.dtype)  # type: ignore[index]
        for block in self.blk:
            x = block(x, cos, sin)
        return self.output_norm(x)  # type: ignore[no-any-return]

    def loss(
        self,
        tokens: Tensor,
        targets: Tensor,
        count: int,
        hidden: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Mean cross-entropy over the positions whose target is not negative.

        `count` (the number of such positions) is passed in, because only those rows go through the
        output matrix: prompts and padding cost nothing there. `hidden` may be a compiled
        `Llama.hidden`.
        """
        states = (hidden or self.hidden)(tokens).flatten(0, 1)
        kept = torch.nonzero(targets.flatten() >= 0, as_tuple=True)[0]
        logits = F.linear(states[kept], self.token_embd.weight.to(states.dtype))
        total = F.cross_entropy(logits.float(), targets.flatten()[kept], reduction="sum")
        return total / count
