"""The tags that models write around their reasoning, as their chat templates know them."""

from __future__ import annotations

import attrs


@attrs.frozen
class ThinkingTags:
    """What begins and ends the reasoning in a model's answers; all of it ASCII.

    With a tag `text` that begins the text, blocks may follow each other, and `between` is what
    the model writes between them.
    """

    start: str
    end: str
    text: str | None = None
    between: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(t for t in (self.start, self.end, self.text, self.between) if t is not None)

    def known_to(self, template: str) -> bool:
        """Whether a chat template has what is particular of these."""
        if self.text is None:
            return self.end in template
        return self.start in template and self.text in template


_TAGS = (
    # gpt-oss, llm-jp 4.1
    ThinkingTags(
        "<|channel|>analysis<|message|>",
        "<|end|>",
        text="<|channel|>final<|message|>",
        between="<|start|>assistant",
    ),
    # Solar Open
    ThinkingTags("<|think|>", "<|end|>", text="<|content|>", between="<|begin|>assistant"),
    # Gemma 4
    ThinkingTags("<|channel>thought", "<channel|>"),
    # Command R7B, Command A
    ThinkingTags("<|START_THINKING|>", "<|END_THINKING|>"),
    # Apertus
    ThinkingTags("<|inner_prefix|>", "<|inner_suffix|>"),
    # Magistral, Ministral
    ThinkingTags("[THINK]", "[/THINK]"),
    # Seed-OSS
    ThinkingTags("<seed:think>", "</seed:think>"),
    # MiniMax M3
    ThinkingTags("<mm:think>", "</mm:think>"),
    # Qwen3, QwQ, DeepSeek R1 and later, SmolLM3, GLM, Kimi, MiniMax M2, Nemotron, and many others
    ThinkingTags("<think>", "</think>"),
    # Apriel
    ThinkingTags("<thinking>", "</thinking>"),
    ThinkingTags("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
)


def tags_of(template: str) -> ThinkingTags | None:
    """The thinking tags that a chat template knows."""
    return next((tags for tags in _TAGS if tags.known_to(template)), None)
