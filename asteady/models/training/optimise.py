"""The training loop: Muon for the matrices, AdamW for the rest, a checkpoint now and then."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from .dataset import Example, batches
from .network import Llama, Shape


@dataclass(frozen=True)
class Schedule:
    steps: int
    tokens_per_batch: int = 4096
    warm_up: int = 60
    decay_from: float = 0.4  # of all steps; from here the rate falls in a straight line
    matrix_rate: float = 0.02
    other_rate: float = 3e-3
    checkpoint_every: int = 200

    def factor(self, step: int) -> float:
        """What the rates are multiplied with at a step."""
        if step < self.warm_up:
            return (step + 1) / self.warm_up
        start = self.steps * self.decay_from
        if step < start:
            return 1.0
        return max(0.0, (self.steps - step) / (self.steps - start)) * 0.98 + 0.02


def optimizers(model: nn.Module, schedule: Schedule) -> list[torch.optim.Optimizer]:
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and n.startswith("blk")]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or not n.startswith("blk")]
    return [
        torch.optim.Muon(matrices, lr=schedule.matrix_rate, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(others, lr=schedule.other_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def train(
    shape: Shape,
    examples: list[Example],
    schedule: Schedule,
    seed: int,
    checkpoint: Path,
    say: Callable[[str], None] = print,
) -> tuple[Llama, float]:
    """Train from the checkpoint if there is one; return the model and the seconds spent in all."""
    torch.manual_seed(seed)
    model = Llama(shape)
    tools = optimizers(model, schedule)
    first, spent = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for tool, saved in zip(tools, state["tools"], strict=True):
            tool.load_state_dict(saved)
        first, spent = state["step"], state["spent"]
        say(f"going on from step {first}")
    hidden = torch.compile(model.hidden, dynamic=False)
    torch._dynamo.config.cache_size_limit = 64
    rates = [schedule.matrix_rate, schedule.other_rate]
    source = itertools.islice(
        batches(examples, seed, schedule.tokens_per_batch), first, schedule.steps
    )
    started = time.monotonic()
    average = 0.0
    bar = tqdm(source, total=schedule.steps, initial=first, desc="train", mininterval=10)
    for step, (inputs, targets) in enumerate(bar, first):
        factor = schedule.factor(step)
        for tool, rate in zip(tools, rates, strict=True):
            for group in tool.param_groups:
                group["lr"] = rate * factor
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model.loss(
                torch.from_numpy(inputs), torch.from_numpy(targets), int((targets >= 0).sum()),
                hidden,
            )  # fmt: skip
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for tool in tools:
            tool.step()
            tool.zero_grad(set_to_none=True)
        value = loss.item()
        average = value if step == first else 0.98 * average + 0.02 * value
        bar.set_postfix(loss=f"{average:.3f}", refresh=False)
        if (step + 1) % schedule.checkpoint_every == 0 or step + 1 == schedule.steps:
            save(checkpoint, model, tools, step + 1, spent + time.monotonic() - started)
    return model, spent + time.monotonic() - started


def save(
    path: Path, model: nn.Module, tools: list[torch.optim.Optimizer], step: int, spent: float
) -> None:
    state = {"model": model.state_dict(), "tools": [tool.state_dict() for tool in tools],
             "step": step, "spent": spent}  # fmt: skip
    fresh = path.with_suffix(".new")
    torch.save(state, fresh)
    fresh.replace(path)


def save_as_start(checkpoint: Path, path: Path) -> None:
    """Write what this checkpoint holds as the beginning of another training."""
    state = torch.load(checkpoint, weights_only=True)
    fresh = path.with_suffix(".new")
    torch.save({**state, "step": 0}, fresh)
    fresh.replace(path)
