"""The date and the variables of chat templates, as a request has them."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from asteady import GenerateRequest, InvalidRequestError, Settings, SettingsError
from asteady._base.rendering import DEFAULT_DATE


def key_of(**options: Any) -> str:
    return GenerateRequest.of("hi", **options).key("f")


def test_the_default_date_is_fixed_and_in_no_key() -> None:
    assert DEFAULT_DATE == "2024-07-26"
    assert key_of() == key_of(date=DEFAULT_DATE) == key_of(date=None)
    assert key_of() == key_of(chat_template_kwargs={}) == key_of(chat_template_kwargs=None)


def test_a_date_has_many_forms_and_one_key() -> None:
    day = datetime.date(2026, 11, 25)
    noon = datetime.datetime(2026, 11, 25, 12)
    assert len({key_of(date=d) for d in ("2026-11-25", "20261125", day, noon)}) == 1
    assert key_of(date=day) != key_of()


def test_today_is_resolved_when_the_request_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime.date):
        @classmethod
        def today(cls) -> Clock:
            return cls(2026, 11, 25)

    monkeypatch.setattr(datetime, "date", Clock)
    assert GenerateRequest.of("hi", date="today").date == "2026-11-25"


def test_a_raw_prompt_has_no_date_and_no_variables() -> None:
    assert key_of(raw=True, date="2026-11-25") == key_of(raw=True)
    with pytest.raises(InvalidRequestError, match="raw skips"):
        key_of(raw=True, chat_template_kwargs={"enable_thinking": False})


@pytest.mark.parametrize("date", ["tomorrow", " today", "", "2026-13-01", 5, "25.11.2026"])
def test_what_is_no_date_is_refused(date: Any) -> None:
    with pytest.raises(InvalidRequestError, match=r'date=.*"today"'):
        key_of(date=date)
    with pytest.raises(SettingsError, match="date="):
        Settings(date=date)


def test_the_setting_is_read_from_the_environment() -> None:
    assert Settings.from_environment(environ={"ASTEADY_DATE": "today"}).date == "today"
    assert Settings.from_environment(environ={}, date="2026-11-25").date == "2026-11-25"
    with pytest.raises(SettingsError, match="ASTEADY_DATE"):
        Settings.from_environment(environ={"ASTEADY_DATE": "soon"})


def test_the_variables_of_a_template_have_no_order_but_types() -> None:
    a, b = {"x": 1, "y": [True, None]}, {"y": (True, None), "x": 1}
    assert key_of(chat_template_kwargs=a) == key_of(chat_template_kwargs=b)
    values: list[Any] = [1, 1.0, True, "1", None]
    assert len({key_of(chat_template_kwargs={"x": value}) for value in values}) == len(values)


@pytest.mark.parametrize(
    ("variables", "match"),
    [
        ({"messages": []}, "given by asteady itself"),
        ({"tools": []}, "given by asteady itself"),
        ({"bos_token": ""}, "given by asteady itself"),
        ({"two words": 1}, "no name of a variable"),
        ({1: 1}, "no name of a variable"),
        ({"x": {1, 2}}, r"\['x'\].*not set"),
        ("x", "a mapping like"),
    ],
)
def test_variables_that_are_refused_are_named(variables: Any, match: str) -> None:
    with pytest.raises(InvalidRequestError, match=match):
        key_of(chat_template_kwargs=variables)
