"""The redis-server of the tests, and the proxy before it, do what tests of faults rely on."""

from __future__ import annotations

import gc
import os
import signal
import socket
import time
from pathlib import Path

import pytest
import redis

from tests.redis_server import Proxy, RedisServer


def test_it_comes_back_empty_on_the_same_port_after_kill(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.set("a", 1)
        first = redis_server.pid
        redis_server.kill()
        with pytest.raises(redis.ConnectionError):
            client.get("a")
        with pytest.raises(ProcessLookupError):
            os.kill(first, signal.SIGCONT)
        redis_server.start()
        assert client.get("a") is None
        assert redis_server.pid != first


def test_it_takes_options_and_a_password(tmp_path: Path) -> None:
    with (
        RedisServer(tmp_path, password="secret", maxmemory="3mb", appendonly="yes") as server,
        server.client() as client,
    ):
        assert client.config_get("maxmemory") == {"maxmemory": str(3 << 20)}
        client.set("a", 1)
        server.kill()
        server.start()
        assert client.get("a") == b"1"
        with socket.create_connection(("127.0.0.1", server.port)) as stranger:
            stranger.sendall(b"GET a\r\n")
            assert stranger.recv(100).startswith(b"-NOAUTH")


def test_a_frozen_server_answers_when_it_is_thawed(redis_server: RedisServer) -> None:
    with (
        redis_server.client() as client,
        redis_server.client(timeout_s=0.05) as impatient,
    ):
        redis_server.freeze()
        with pytest.raises(redis.TimeoutError):
            impatient.ping()
        redis_server.thaw()
        assert client.ping()


def test_the_proxy_delays_what_the_server_sends(
    redis_server: RedisServer, redis_proxy: Proxy
) -> None:
    with redis.Redis.from_url(redis_server.url_at(redis_proxy.port)) as client:
        client.set("a", "b" * 100_000)
        redis_proxy.delay_s = 0.2
        began = time.monotonic()
        assert client.get("a") == b"b" * 100_000
        assert time.monotonic() - began >= 0.2
        redis_proxy.delay_s = 0
        assert client.ping()
        assert redis_proxy.connected == redis_proxy.open == 1


def test_a_partition_loses_nothing_and_tells_nobody(
    redis_server: RedisServer, redis_proxy: Proxy
) -> None:
    with (
        redis_server.client() as beside,
        socket.create_connection(("127.0.0.1", redis_proxy.port)) as through,
    ):
        through.sendall(b"SET a 1\r\n")
        assert through.recv(100) == b"+OK\r\n"
        redis_proxy.partition()
        through.sendall(b"SET a 2\r\n")
        through.settimeout(0.05)
        with pytest.raises(TimeoutError):
            through.recv(100)
        with pytest.raises(TimeoutError):
            socket.create_connection(("127.0.0.1", redis_proxy.port), timeout=0.05)
        assert beside.get("a") == b"1"
        through.settimeout(60)
        redis_proxy.heal()
        assert through.recv(100) == b"+OK\r\n"
        assert beside.get("a") == b"2"
        with socket.create_connection(("127.0.0.1", redis_proxy.port)) as another:
            another.sendall(b"PING\r\n")
            assert another.recv(100) == b"+PONG\r\n"


def test_a_cut_resets_connections_and_new_ones_work(
    redis_server: RedisServer, redis_proxy: Proxy
) -> None:
    with socket.create_connection(("127.0.0.1", redis_proxy.port)) as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(100) == b"+PONG\r\n"
        redis_proxy.cut()
        with pytest.raises(ConnectionResetError):
            connection.recv(100)
    with redis.Redis(port=redis_proxy.port) as client:
        assert client.ping()


def test_connections_that_are_cut_as_soon_as_they_are_made_are_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as target:
        for end in (Proxy.cut, Proxy.partition) * 15:
            with Proxy(target.getsockname()[1]) as proxy:
                clients = [socket.create_connection(("127.0.0.1", proxy.port)) for _ in range(3)]
                end(proxy)
                for client in clients:
                    client.close()
    gc.collect()  # it would find the others, which fails the test


def test_connections_end_with_a_server_that_ends(
    redis_server: RedisServer, redis_proxy: Proxy
) -> None:
    with socket.create_connection(("127.0.0.1", redis_proxy.port)) as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(100) == b"+PONG\r\n"
        redis_server.kill()
        assert connection.recv(100) == b""
    with socket.create_connection(("127.0.0.1", redis_proxy.port)) as connection:
        assert connection.recv(100) == b""
