"""Names that are no options: the hint leads to what was meant, and to nothing else."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from asteady._base.errors import InvalidRequestError, SettingsError
from asteady._base.options import SettingsOptions
from asteady._base.requests import GenerateRequest
from asteady._base.settings import Settings
from asteady._session.session import Session
from asteady.testing import FakeEngine

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("max_tokens", "'max_new_tokens'"),
        ("num_predict", "'max_new_tokens'"),
        ("max_new_token", "did you mean 'max_new_tokens'"),
        ("temp", "'temperature'"),
        ("repetition_penalty", "'repeat_penalty'"),
        ("guided_regex", "'regex'"),
        ("response_format", "'schema'"),
        ("reasoning_effort", "chat_template_kwargs"),
        ("system_prompt", 'messages=.*"system".*prefix'),
        ("n_ctx", "context_tokens"),
        ("timeout", "asyncio.timeout"),
        ("stream", r"session\.stream"),
        ("no_cache", 'cache="bypass"'),
        ("ttl", "never become stale"),
        ("mirostat_tau", "not offered: docs/sampling.md"),
        ("dry_multiplier", "not offered: docs/sampling.md"),
        ("xtc_threshold", "not offered: docs/sampling.md"),
        ("top_n_sigma", "not offered: docs/sampling.md"),
        ("logits_processor", "not offered: docs/sampling.md"),
        ("typ_p", "'typical_p'"),
        ("present_penalty", "'presence_penalty'"),
        ("repeat_last_n", "last 64 tokens"),
        ("ignore_eos", "logit_bias="),
        ("n_probs", "'logprobs'"),
    ],
)
async def test_an_option_of_another_library_leads_to_ours(
    session: Session, name: str, hint: str
) -> None:
    options: dict[str, Any] = {name: 1}
    with pytest.raises(
        InvalidRequestError, match=rf"generate\(\) has no option '{name}'; .*{hint}"
    ):
        await session.generate("hi", **options)


async def test_a_name_that_resembles_none_gets_the_list(session: Session) -> None:
    options: dict[str, Any] = {"wavelength": 2}
    with pytest.raises(
        InvalidRequestError, match="'wavelength'; it has: cache, chat_template_kwargs, choices, "
    ):
        await session.generate("hi", **options)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("wrokers", "did you mean 'workers'"),
        ("n_threads", "'threads'"),
        ("n_gpu_layers", "'gpu_layers'"),
        ("model", "'generation_model' and 'embedding_model'"),
        ("n_ctx", "context_tokens"),
        ("cache_size", "'generation_cache_capacity' and 'embedding_cache_capacity'"),
        ("temperature", "an option of each call"),
        ("zebra", "it has: .*workers"),
    ],
)
def test_a_setting_of_another_library_leads_to_ours(name: str, hint: str) -> None:
    arguments: dict[str, Any] = {name: 1}
    with pytest.raises(SettingsError, match=rf"no setting '{name}'; .*{hint}"):
        Session(engine=FakeEngine(), **arguments)


def test_messages_in_the_place_of_the_prompt_are_sent_to_theirs() -> None:
    prompt: Any = [{"role": "user", "content": "hi"}]
    with pytest.raises(InvalidRequestError, match=r"messages are given as messages=\[\.\.\.\]"):
        GenerateRequest.of(prompt)


def test_the_options_of_a_session_are_the_settings() -> None:
    fields = {field.name for field in attrs.fields(Settings)}
    assert SettingsOptions.__annotations__.keys() == fields | {"profile"}
