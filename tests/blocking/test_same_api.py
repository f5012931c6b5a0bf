"""Each public async callable has a plain one, with the same parameters and documentation."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import asteady
from asteady import blocking, operate

TOOLS = [
    name
    for name in vars(operate)["__all__"]
    if inspect.isclass(tool := getattr(operate, name))
    and any(inspect.iscoroutinefunction(member) for member in vars(tool).values())
    and name not in ("Namespace", "Operation")
]
CLASSES: dict[type, type] = {
    asteady.Session: blocking.Session,
    asteady.Prefix: blocking.Prefix,
    asteady.Cache: blocking.Cache,
    asteady.CacheManager: blocking.CacheManager,
    asteady.Stream: blocking.Stream,
    asteady.TypedStream: blocking.TypedStream,
    operate.Namespace: blocking.Namespace,
    **{getattr(operate, name): getattr(blocking, name) for name in TOOLS},
}
# What a plain program does not call, and why.
NOT_HERE = {
    "aclose": "is close() here",
    "Session.aclose": "is close() here",
    "Session.abandon": "for a session whose loop has gone",
    "Session.opened_by": "makes the default session",
    "Session.check_open": "a plain call raises by itself",
    "Cache.open": "its session opens it",
    "Cache.aclose": "its session closes it",
    "Cache.abandon": "for a session whose loop has gone",
    "CacheManager.abandon": "for a session whose loop has gone",
    "CacheManager.open": "its session opens it",
    "CacheManager.check_open": "for the command line",
    "CacheManager.aclose": "its session closes it",
    "Stream.leave": "leaving the block does it",
    "TypedStream.leave": "leaving the block does it",
    "CacheInspector.observe": "an observer",
    "CacheBenchmark.observe": "an observer",
    "CacheOptimizer.load": "read by the tool itself",
    "PrometheusCollector.collect": "called by the registry",
    "PrometheusCollector.describe": "called by the registry",
}
# For asteady's other packages, not for users.
PIPELINE = {
    "recaller",
    "recall",
    "peek_alias",
    "count_hit",
    "find",
    "found_elsewhere",
    "missed",
    "disown",
    "recall_key",
    "peek",
    "computing",
    "tag",
    "ready",
    "lookups_of",
    "namespace_lookups",
    "forget_tags",
    "committed",
    "take_touches",
    "flush",
}
# They speak of threads where the async ones speak of tasks and loops.
OTHER_WORDS = {
    "Stream.events",
    "TypedStream.events",
    "Session.observe",
    "CacheMonitor.operation",
    "CacheMonitor.run",
    "CacheMonitor.monitor_operation",
    "CacheInspector.tracing",
    "get_cache_manager",
}
# Async ones whose plain ones have no time limit.
NO_TIMEOUT = {
    "Stream.read": "the stream has it",
    "TypedStream.read": "the stream has it",
    "CacheMonitor.run": "the function has it",
    "CacheMonitor.monitor_operation": "the function has it",
    "HierarchicalCache.namespace": "waits for nothing",
}


def pairs() -> Iterator[tuple[str, Callable[..., Any], object]]:
    for name in sorted({*vars(asteady)["__all__"], *vars(operate)["__all__"]}):
        package = asteady if name in vars(asteady)["__all__"] else operate
        if inspect.isfunction(fn := getattr(package, name)):
            yield name, fn, blocking
    for kind, plain in CLASSES.items():
        for base in reversed(kind.__mro__[:-1]):
            for name, member in vars(base).items():
                if name.startswith("_") or not inspect.isfunction(member):
                    continue
                if name not in PIPELINE:
                    yield f"{kind.__name__}.{name}", member, plain


PAIRS = {name: (fn, owner) for name, fn, owner in pairs() if name not in NOT_HERE}


def parameters(fn: Callable[..., Any]) -> list[tuple[str, object, object]]:
    return [
        (parameter.name, parameter.kind, parameter.default)
        for parameter in inspect.signature(fn).parameters.values()
        if parameter.name not in ("self", "session", "timeout")
    ]


def test_the_list_of_exceptions_has_no_stale_names() -> None:
    names = {name for name, _, _ in pairs()}
    assert names >= OTHER_WORDS | set(NO_TIMEOUT)
    assert set(NOT_HERE) - names <= {"Session.opened_by"}  # a class method
    assert set(dir(asteady.Cache)) >= PIPELINE
    assert len(names) > 80


@pytest.mark.parametrize("name", PAIRS)
def test_a_plain_callable_is_there_with_the_same_parameters_and_documentation(name: str) -> None:
    fn, owner = PAIRS[name]
    plain = getattr(owner, name.rpartition(".")[2])
    assert not inspect.iscoroutinefunction(plain)
    assert not inspect.isasyncgenfunction(plain)
    assert parameters(plain) == parameters(fn)
    assert plain.__doc__
    # What waits for work can have a time limit.
    waits = inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn)
    if waits and name not in NO_TIMEOUT:
        timeout = inspect.signature(plain).parameters["timeout"]
        assert timeout.kind is timeout.KEYWORD_ONLY
        assert timeout.default is None
        assert "TimeoutError" in plain.__doc__
    if owner is blocking:
        assert plain.__module__ == "asteady.blocking"
    if name not in OTHER_WORDS:
        # A function of `asteady` refers to the method, whose documentation is here.
        of = getattr(asteady.Session, name, fn) if owner is blocking else fn
        documentation = inspect.getdoc(of)
        assert documentation is not None
        assert (inspect.getdoc(plain) or "").startswith(documentation)


@pytest.mark.parametrize("name", PAIRS)
def test_type_hints_can_be_resolved(name: str) -> None:
    _, owner = PAIRS[name]
    hints = typing.get_type_hints(getattr(owner, name.rpartition(".")[2]))
    assert "return" in hints


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_a_plain_class_has_the_same_properties_and_is_public(kind: type) -> None:
    plain = CLASSES[kind]
    assert plain.__module__ == "asteady.blocking"
    properties = {
        name
        for name, member in inspect.getmembers(kind)
        if isinstance(member, property) and not name.startswith("_")
    }
    for name in properties - {"ready", "pending_tags"}:
        assert isinstance(getattr(plain, name), property), name


@pytest.mark.parametrize("name", [*TOOLS, "Session"])
def test_a_constructor_shows_its_options(name: str) -> None:
    kind = getattr(operate, name, None) or getattr(asteady, name)
    assert parameters(getattr(blocking, name)) == parameters(kind)
