"""What a session is busy with: records for programs, and the log."""

from __future__ import annotations

import logging

import pytest

from asteady._base.activity import Activities


def test_what_goes_on_is_listed_until_it_ends() -> None:
    activities = Activities()
    with activities.during("identifying", "a.gguf", 10) as running:
        running.done = 4
        with activities.during("waiting", "builtin"):
            first, second = activities.now()
            assert (first.phase, first.subject, first.done, first.total) == (
                "identifying",
                "a.gguf",
                4,
                10,
            )
            assert first.seconds >= second.seconds >= 0.0
            assert (second.phase, second.total) == ("waiting", 0)
        assert [activity.phase for activity in activities.now()] == ["identifying"]
    assert activities.now() == ()


def test_what_took_long_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "asteady")
    activities = Activities(log_after_s=0.0)
    running = activities.begin("prompt", "builtin", 1500)
    running.done = 1200
    activities.end(running)
    activities.end(running)
    (record,) = caplog.records
    assert record.message.startswith("computed a prompt for builtin (1,200 of 1,500 tokens) in ")
    with Activities(log_after_s=60.0).during("waiting", "builtin"):
        pass
    assert len(caplog.records) == 1


def test_what_fails_is_not_listed_any_more() -> None:
    activities = Activities()
    with pytest.raises(ValueError, match="failed"), activities.during("loading", "a.gguf"):
        raise ValueError("failed")
    assert activities.now() == ()
