"""References, the choice of a server, events in pieces, and when to ask again."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from asteady import ModelNotFoundError
from asteady._engine.remote.endpoints import (
    LONGEST_PAUSE_S,
    Endpoint,
    first_back_s,
    least_busy,
)
from asteady._engine.remote.events import EventDecoder
from asteady._engine.remote.failures import retry_after_s
from asteady._engine.remote.reference import Address, RemoteReference


def _parsed(text: str) -> tuple[list[str], str, str | None]:
    found = RemoteReference.parse(text)
    return [str(each) for each in found.addresses], found.name, found.revision


@pytest.mark.parametrize(
    ("text", "addresses", "name", "revision"),
    [
        ("http://h:8000/v1#m", ["http://h:8000/v1"], "m", None),
        ("http://h#m@2026-01", ["http://h/v1"], "m", "2026-01"),
        ("https://[::1]:8443/api/v2/#org/m:7b", ["https://[::1]:8443/api/v2"], "org/m:7b", None),
        ("http://a/v1,openai+http://b/v1#m", ["http://a/v1", "http://b/v1"], "m", None),
        ("http://h#@cf/m", ["http://h/v1"], "@cf/m", None),
        ("http://h#a%23b@c", ["http://h/v1"], "a#b", "c"),
        ("http://h", ["http://h/v1"], "", None),
        ("unix:///run/a.sock#m", ["unix:/run/a.sock"], "m", None),
    ],
)
def test_a_reference_is_read(
    text: str, addresses: list[str], name: str, revision: str | None
) -> None:
    assert _parsed("openai+" + text) == (addresses, name, revision)


@pytest.mark.parametrize(
    ("url", "socket", "base"),
    [
        ("unix:///run/a.sock", "/run/a.sock", "http://localhost/v1"),
        ("unix:///run/a.sock/v2", "/run/a.sock", "http://localhost/v2"),
        ("unix:///run/a:/x/v1", "/run/a", "http://localhost/x/v1"),
        ("unix:///run/asteady", "/run/asteady", "http://localhost/v1"),
    ],
)
def test_a_unix_socket_has_a_path_and_a_base(url: str, socket: str, base: str) -> None:
    assert RemoteReference.parse(f"openai+{url}#m").addresses == (Address(base, socket),)


def test_options_of_a_reference() -> None:
    found = RemoteReference.parse("openai+http://h?timeout_s=2.5&retries=0&api_key=KEY#m")
    assert (found.timeout_s, found.retries, found.key_variable) == (2.5, 0, "KEY")
    assert found.api_key({"KEY": " k ", "ASTEADY_REMOTE_API_KEY": "other"}) == "k"
    plain = RemoteReference.parse("openai+http://h#m")
    assert plain.api_key({"ASTEADY_REMOTE_API_KEY": "k"}) == "k"
    assert plain.api_key({}) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ftp://h#m", "an address begins with http://"),
        ("http://#m", "an address begins with http://"),
        ("#m", "an address begins with http://"),
        ("http://h:x#m", "is no URL"),
        ("http://user:secret@h#m", "no password is in an address"),
        ("http://h?api_key=sk-secret#m", "the name of an environment variable"),
        ("http://h?secret=1#m", "the option 'secret'; there are api_key"),
        ("http://h?timeout_s=0#m", "timeout_s=0 is not allowed"),
        ("http://h?retries=x#m", "retries='x' is not allowed"),
        ("http://h?fingerprint=yes#m", "fingerprint=ignore"),
        ("http://h,http://h/v1#m", "is there twice"),
        ("unix:run.sock#m", "the path is absolute"),
    ],
)
def test_what_is_no_reference_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ModelNotFoundError, match=reason) as caught:
        RemoteReference.parse("openai+" + text)
    if "secret=" not in text:
        assert "secret" not in str(caught.value)


def _endpoints(count: int) -> list[Endpoint]:
    return [Endpoint(Address(f"http://{number}")) for number in range(count)]


def test_the_least_busy_server_that_is_not_set_aside_is_next() -> None:
    one, two, three = endpoints = _endpoints(3)
    assert least_busy(endpoints, 0.0) is one
    with one.busy():
        assert least_busy(endpoints, 0.0) is two
        two.failed(0.0, 0.0)
        assert least_busy(endpoints, 0.0) is three
        assert least_busy(endpoints, two.until_s) is two
        assert least_busy(endpoints, 0.0, [three]) is one
    three.failed(0.0, 0.0)
    one.failed(0.0, 0.0, at_least_s=5.0)
    assert least_busy(endpoints, 0.1) is None
    assert first_back_s(endpoints) == two.until_s


def test_a_server_is_set_aside_longer_the_more_often_it_fails_in_a_row() -> None:
    (endpoint,) = _endpoints(1)
    pauses, now_s = [], 0.0
    for _ in range(12):
        endpoint.failed(now_s, now_s)
        pauses.append(endpoint.until_s - now_s)
        now_s = endpoint.until_s
    assert pauses[:4] == [0.25, 0.5, 1.0, 2.0]
    assert pauses[-1] == LONGEST_PAUSE_S
    endpoint.succeeded()
    endpoint.failed(now_s, now_s)
    assert endpoint.until_s - now_s == 0.25


def test_requests_that_fail_together_count_once() -> None:
    (endpoint,) = _endpoints(1)
    for _ in range(8):
        endpoint.failed(10.0, 9.0)
    assert endpoint.failures == 1
    endpoint.failed(11.0, 10.5)
    assert endpoint.failures == 2


EVENTS = [b'{"a": 1}', b"one\ntwo", b"[DONE]"]
STREAM = (
    b': ping\n\ndata: {"a": 1}\r\n\r\nevent: x\ndata: one\ndata:two\n\n\n\n'
    b"data: [DONE]\n\ndata: cut"
)


@given(st.lists(st.integers(0, len(STREAM))))
def test_events_are_the_same_however_the_stream_is_cut(cuts: list[int]) -> None:
    bounds = [0, *sorted(cuts), len(STREAM)]
    decoder = EventDecoder()
    found = []
    for start, end in pairwise(bounds):
        found += decoder.feed(STREAM[start:end])
    assert found == EVENTS


def test_an_event_has_a_bounded_size() -> None:
    decoder = EventDecoder(most_bytes=100)
    decoder.feed(b"data: " + b"x" * 90)
    with pytest.raises(ValueError, match="100 bytes"):
        decoder.feed(b"x" * 90)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.5", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "Thu, 26 Nov 2026 00:01:00 GMT"}, 60.0),
        ({"retry-after": "Thu, 26 Nov 2020 00:00:00 GMT"}, 0.0),
        ({"retry-after": "-5"}, 0.0),
        ({"retry-after": "soon"}, 0.0),
        ({}, 0.0),
    ],
)
def test_retry_after_is_a_number_or_a_date(headers: dict[str, str], seconds: float) -> None:
    assert retry_after_s(headers, datetime(2026, 11, 26, tzinfo=UTC)) == seconds
