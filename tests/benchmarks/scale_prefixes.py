"""Replicas of an engine behind a router on paper: how much of the prompts is computed again.

A replica keeps blocks of tokens, the least recently used go (as vLLM's automatic prefix caching
does), and reuses the blocks of a prompt up to the first one that it does not have.
"""

from __future__ import annotations

import random
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from tests.benchmarks.scale_model import Trace

Prompt: TypeAlias = Sequence[str]
# So many blocks of a prompt are worth a replica that has computed a block more than the mean.
LOAD_WEIGHT = 0.05


class Replica:
    def __init__(self, blocks: int) -> None:
        self.work = 0
        self._limit = blocks
        self._blocks: OrderedDict[str, None] = OrderedDict()

    def known(self, prompt: Prompt) -> int:
        """How many leading blocks of the prompt it has."""
        for number, block in enumerate(prompt):
            if block not in self._blocks:
                return number
        return len(prompt)

    def compute(self, prompt: Prompt) -> int:
        """Returns how many blocks were computed."""
        computed = len(prompt) - self.known(prompt)
        self.work += computed
        # The end of a prompt goes before its beginning.
        for block in reversed(prompt):
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self._limit:
            self._blocks.popitem(last=False)
        return computed


Router: TypeAlias = Callable[[int, Prompt, list[Replica]], Replica]


def in_turn(number: int, prompt: Prompt, replicas: list[Replica]) -> Replica:
    return replicas[number % len(replicas)]


def by_beginning(number: int, prompt: Prompt, replicas: list[Replica]) -> Replica:
    """By a hash of the first block of a conversation's own, as a balancer can do it.

    The first block of all is the same in all prompts: the product's instructions.
    """
    return replicas[zlib.crc32("".join(prompt[:2]).encode()) % len(replicas)]


def by_prefix(number: int, prompt: Prompt, replicas: list[Replica]) -> Replica:
    """By what it knows of the prompt and what it has had to do, as prefix-aware routers do it."""
    mean = sum(replica.work for replica in replicas) / len(replicas)

    def cost(replica: Replica) -> float:
        more = max(0.0, replica.work - mean)
        return len(prompt) - replica.known(prompt) + LOAD_WEIGHT * more

    return min(replicas, key=lambda replica: (cost(replica), replica.work))


def prompts_of(trace: Trace) -> Iterator[list[str]]:
    """Prompts of a trace of blocks, in which all begin with the same one."""
    prompt: list[str] = []
    for key, _, _ in trace:
        if key == trace[0][0] and prompt:
            yield prompt
            prompt = []
        prompt.append(key)
    yield prompt


def made_up_prompts(prompts: int) -> list[list[str]]:
    """Chats whose turns add one to eight blocks; a third of the prompts begin one."""
    chance = random.Random(0)
    chats: list[list[str]] = []
    made: list[list[str]] = []
    for number in range(prompts):
        if not chats or chance.random() < 1 / 3:
            chats.append(["0"])
        chat = chance.choice(chats[-300:])
        chat += [f"{number}.{block}" for block in range(chance.randint(1, 8))]
        made.append(list(chat))
    return made


def replay(
    prompts: Sequence[Prompt], replicas: int, blocks: int, router: Router
) -> tuple[float, float]:
    """Percent of all blocks that were computed, and the work of the busiest replica, mean = 1."""
    pool = [Replica(blocks) for _ in range(replicas)]
    for number, prompt in enumerate(prompts):
        router(number, prompt, pool).compute(prompt)
    works = [replica.work for replica in pool]
    total = sum(len(prompt) for prompt in prompts)
    return 100 * sum(works) / total, max(works) * replicas / sum(works)
