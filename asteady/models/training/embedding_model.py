"""The student: a small BERT with mean pooling, its training loop and its GGUF file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

import attrs
import gguf
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from .embedding_tokens import CLS, MASK, PAD, SEP, SPECIAL, UNK, gguf_piece

FloatArray = npt.NDArray[np.float32]


@attrs.frozen(kw_only=True)
class Shape:
    """The sizes of a student; `width` is also the number of output dimensions."""

    vocabulary: int
    width: int = 256
    layers: int = 4
    heads: int = 8
    inner: int = 1024
    context: int = 512


class Layer(nn.Module):  # type: ignore[misc]  # torch is Any where types are checked
    """One BERT layer: attention and feed-forward, each followed by its norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.qkv = nn.Linear(shape.width, 3 * shape.width)
        self.out = nn.Linear(shape.width, shape.width)
        self.norm1 = nn.LayerNorm(shape.width, eps=1e-12)
        self.up = nn.Linear(shape.width, shape.inner)
        self.down = nn.Linear(shape.inner, shape.width)
        self.norm2 = nn.LayerNorm(shape.width, eps=1e-12)
        for linear in (self.qkv, self.up, self.out, self.down):
            nn.init.normal_(linear.weight, std=shape.width**-0.5)
            nn.init.zeros_(linear.bias)
        # Both branches begin almost silent: the untrained student is then a mean over the
        # token vectors that the teacher gave it, which is already a fair sentence vector.
        with torch.no_grad():
            self.out.weight.mul_(0.1)
            self.down.weight.mul_(0.1)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, self.heads, -1).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        # Written out: PyTorch's fused attention takes four times as long on a CPU when texts
        # are as short as here.
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + bias.to(q.dtype)
        a = scores.softmax(-1, dtype=torch.float32).to(q.dtype) @ v
        x = self.norm1(x + self.out(a.transpose(1, 2).reshape(batch, length, width)))
        # llama.cpp computes the tanh form of GELU.
        normed: Tensor = self.norm2(x + self.down(F.gelu(self.up(x), approximate="tanh")))
        return normed


class Student(nn.Module):  # type: ignore[misc]  # as above
    """Token ids to unit vectors."""

    def __init__(self, shape: Shape, pieces: Tensor) -> None:
        """`pieces`: first guess of the token vectors, shape (vocabulary, width)."""
        super().__init__()
        self.shape = shape
        self.tokens = nn.Parameter(pieces.clone())
        self.positions = nn.Parameter(torch.zeros(shape.context, shape.width))
        self.norm = nn.LayerNorm(shape.width, eps=1e-12)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))

    def forward(self, ids: Tensor) -> Tensor:
        """(batch, length) ids, padded with PAD -> (batch, width), norm 1."""
        mask = ids != PAD
        bias = torch.zeros(ids.shape).masked_fill(~mask, -1e4)[:, None, None, :]
        x = self.norm(F.embedding(ids, self.tokens) + self.positions[: ids.shape[1]])
        for layer in self.layers:
            x = layer(x, bias)
        weight = mask[:, :, None].float()
        return F.normalize((x.float() * weight).sum(1) / weight.sum(1), dim=1)


def _batches(
    rng: Random, groups: Sequence[Sequence[int]], lengths: Sequence[int], width: int
) -> list[list[int]]:
    """One epoch: whole groups together, groups of similar length together, in random order."""
    order = list(range(len(groups)))
    rng.shuffle(order)
    out: list[list[int]] = []
    pool = 40 * width
    for start in range(0, len(order), pool):
        part = sorted(order[start : start + pool], key=lambda g: max(lengths[i] for i in groups[g]))
        batch: list[int] = []
        for group in part:
            batch += groups[group]
            if len(batch) >= width:
                out.append(batch)
                batch = []
        if len(batch) > width // 2:
            out.append(batch)
    rng.shuffle(out)
    return out


def _pad(rows: Sequence[Sequence[int]]) -> Tensor:
    out = torch.full((len(rows), max(map(len, rows))), PAD, dtype=torch.long)
    for index, row in enumerate(rows):
        out[index, : len(row)] = torch.tensor(row)
    return out


def loss_of(student: Tensor, target: Tensor, cosines: Tensor) -> Tensor:
    """How far a batch is from the teacher: each vector, and all cosines within the batch.

    `target`: the teacher's vectors in the student's dimensions, `cosines`: the teacher's own.
    """
    vectors = (1 - (student * target).sum(1)).mean()
    off_diagonal = ~torch.eye(len(student), dtype=torch.bool)
    difference = (student @ student.T - cosines)[off_diagonal]
    # 10: with it both terms are about equal once the student has learnt the easy half.
    return vectors + 10 * difference.square().mean()


def train(
    model: Student,
    tokens: Sequence[Sequence[int]],
    groups: Sequence[Sequence[int]],
    teacher: npt.NDArray[np.float16],
    projection: FloatArray,
    *,
    steps: int,
    seed: int,
    checkpoint: Path,
    width: int = 320,
    rate: float = 1.5e-3,
) -> tuple[float, float]:
    """Train for `steps`; resume from `checkpoint` if it is there.

    Returns the last mean loss, and the seconds that training took, interruptions not counted.
    """
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.01},
            {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    lengths = [len(row) for row in tokens]
    step, epoch, mean, spent_s = 0, 0, 0.0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, epoch, mean = state["step"], state["epoch"], state["mean"]
        spent_s = state.get("spent_s", 0.0)
    bar = tqdm(total=steps, initial=step, desc="embedding model", mininterval=10)
    saved = time.monotonic()
    while step < steps:
        # An interrupted epoch is begun again from its start, in another order.
        for batch in _batches(Random(f"{seed}.{epoch}.{step}"), groups, lengths, width):
            if step >= steps:
                break
            warm = min(1.0, (step + 1) / 200)
            for group in optimizer.param_groups:
                group["lr"] = rate * warm * max(0.01, 1 - step / steps)
            raw = torch.from_numpy(teacher[batch].astype(np.float32))
            target = F.normalize(raw @ torch.from_numpy(projection), dim=1)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                vectors = model(_pad([tokens[i] for i in batch]))
            loss = loss_of(vectors, target, raw @ raw.T)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            mean = loss.item() if step == 1 else 0.99 * mean + 0.01 * loss.item()
            bar.update()
            bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
            if time.monotonic() - saved > 60 or step == steps:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                spent_s += time.monotonic() - saved
                state |= {"step": step, "epoch": epoch, "mean": mean, "spent_s": spent_s}
                torch.save(state, checkpoint.with_suffix(".tmp"))
                checkpoint.with_suffix(".tmp").replace(checkpoint)
                saved = time.monotonic()
        epoch += 1
    bar.close()
    return mean, spent_s


def export(model: Student, pieces: Sequence[str], out: Path, description: str) -> None:
    """Write the student as GGUF: matrices Q8_0, positions F16, norms and biases F32."""
    shape = model.shape
    writer = gguf.GGUFWriter(str(out), "bert")
    writer.add_name("asteady embed")
    writer.add_author("asteady")
    writer.add_license("MIT")
    writer.add_description(description)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.inner)
    writer.add_block_count(shape.layers)
    writer.add_head_count(shape.heads)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_tokenizer_model("bert")
    writer.add_token_list([gguf_piece(piece).encode() for piece in pieces])
    writer.add_token_types(
        [gguf.TokenType.CONTROL if p in SPECIAL else gguf.TokenType.NORMAL for p in pieces]
    )
    writer.add_token_type_count(1)
    writer.add_uint32("tokenizer.ggml.cls_token_id", CLS)
    writer.add_bos_token_id(CLS)
    writer.add_sep_token_id(SEP)
    writer.add_eos_token_id(SEP)
    writer.add_pad_token_id(PAD)
    writer.add_unk_token_id(UNK)
    writer.add_mask_token_id(MASK)
    q8, f16, f32 = (getattr(gguf.GGMLQuantizationType, name) for name in ("Q8_0", "F16", "F32"))

    def add(name: str, value: Tensor, kind: gguf.GGMLQuantizationType) -> None:
        array = value.detach().float().numpy()
        writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)

    def linear(name: str, weight: Tensor, bias: Tensor) -> None:
        add(f"{name}.weight", weight, q8)
        add(f"{name}.bias", bias, f32)

    def norm(name: str, module: nn.LayerNorm) -> None:
        add(f"{name}.weight", module.weight, f32)
        add(f"{name}.bias", module.bias, f32)

    add("token_embd.weight", model.tokens, q8)
    add("position_embd.weight", model.positions, f16)
    add("token_types.weight", torch.zeros(1, shape.width), f32)
    norm("token_embd_norm", model.norm)
    for index, layer in enumerate(model.layers):
        assert isinstance(layer, Layer)
        block = f"blk.{index}"
        parts = zip(layer.qkv.weight.chunk(3), layer.qkv.bias.chunk(3), strict=True)
        for part, (weight, bias) in zip("qkv", parts, strict=True):
            linear(f"{block}.attn_{part}", weight, bias)
        linear(f"{block}.attn_output", layer.out.weight, layer.out.bias)
        norm(f"{block}.attn_output_norm", layer.norm1)
        linear(f"{block}.ffn_up", layer.up.weight, layer.up.bias)
        linear(f"{block}.ffn_down", layer.down.weight, layer.down.bias)
        norm(f"{block}.layer_output_norm", layer.norm2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
