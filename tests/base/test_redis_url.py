"""The URL of a shared cache: what is refused, and what is shown of it."""

from __future__ import annotations

import pytest

from asteady import Settings, SettingsError
from asteady._base.redis_url import hidden_password, host_of


@pytest.mark.parametrize(
    "url",
    [
        *("redis://", "redis://host", "redis://:6379", "redis://host:6379/3", "redis://[::1]:1/0"),
        *("rediss://user:pass@host?ssl_ca_certs=/ca.pem", "valkey://:p%23%2F@host", "valkeys://h"),
        *("redis://user:p@ss@host", "unix:///run/redis.sock?db=1", "unix://me:pass@/run/a@b"),
        *("redis+cluster://host:1/0", "redis+sentinel://:pass@a,b:1,[::1]:2/service/5"),
    ],
)
def test_what_is_a_url_of_a_server_is_taken_as_it_is(url: str) -> None:
    settings = Settings(shared_cache=url)
    assert settings.shared_cache == url
    assert "pass" not in repr(settings)


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("localhost:6379", "the URL of a Redis or Valkey server"),
        ("/run/redis.sock", "the URL of a Redis or Valkey server"),
        ("redis://host/zero", "'zero' is not the number of a database"),
        ("redis://host/1/2", "'1/2' is not the number of a database"),
        ("redis://host:99999", "'host:99999' is not a host"),
        ("redis://host:port/0", "'host:port' is not a host"),
        ("redis://a:1,b:2", "'a:1,b:2' is not a host"),
        ("redis+cluster://host/1", "a cluster has database 0 only"),
        ("redis+sentinel://host", "the service has no name"),
        ("redis+sentinel://a,b:c/service", "'b:c' is not a host"),
        ("redis+sentinel://a/service/zero", "'zero' is not the number of a database"),
        ("unix://redis.sock", "the path of a socket is needed"),
        ("unix://", "the path of a socket is needed"),
    ],
)
def test_a_mistake_in_a_url_is_named(url: str, allowed: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings(shared_cache=url)
    assert str(caught.value).startswith(f"shared_cache={url!r} is not allowed: {allowed}")


@pytest.mark.parametrize(
    "password", ["se#cret", "se/cret", "se?cret", "1/secret", "se[cret", "se[cr]et", "?s#"]
)
def test_a_password_that_is_not_encoded_is_told_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    monkeypatch.setenv("ASTEADY_SHARED_CACHE", f"redis://user:{password}@host:6379/0")
    with pytest.raises(SettingsError, match="percent-encoded") as caught:
        Settings.from_environment()
    assert str(caught.value).startswith("ASTEADY_SHARED_CACHE='redis://***@host:6379/0' is not")


def test_a_password_in_a_query_is_hidden() -> None:
    shown = hidden_password("redis://h?password=a%23&sentinel_password=b&db=2")
    assert shown == "redis://h?password=***&sentinel_password=***&db=2"


def test_an_address_of_ipv6_has_no_brackets_for_a_socket() -> None:
    assert host_of("[::1]", 26379) == ("::1", 26379)
    assert host_of("[::1]:5", 26379) == ("::1", 5)
    assert host_of("host:5", 26379) == ("host", 5)
