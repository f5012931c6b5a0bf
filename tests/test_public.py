"""The public surface: names, where they are found, signatures and type hints."""

from __future__ import annotations

import ast
import importlib
import inspect
import pickle
import typing
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import asteady
import asteady.blocking
import asteady.operate
import asteady.operate.dask
import asteady.steadytext
import asteady.testing

MODULES: list[ModuleType] = [
    asteady,
    asteady.blocking,
    asteady.operate,
    asteady.operate.dask,
    asteady.server,
    asteady.steadytext,
    asteady.testing,
]


def public_objects() -> Iterator[tuple[str, Any]]:
    for module in MODULES:
        for name in module.__all__:
            yield f"{module.__name__}.{name}", getattr(module, name)


def public_callables() -> Iterator[tuple[str, Any]]:
    """Classes, functions, and the public methods of classes."""
    for path, obj in public_objects():
        if inspect.isclass(obj) and obj.__module__.startswith("asteady"):
            yield path, obj
            for name, member in inspect.getmembers(obj, inspect.isroutine):
                ours = (getattr(member, "__module__", None) or "").startswith("asteady")
                if ours and (not name.startswith("_")):
                    yield f"{path}.{name}", member
        elif inspect.isfunction(obj):
            yield path, obj


# Users get a cache from a session; these of its methods are for asteady's own packages.
INTERNAL = {
    f"asteady.Cache.{name}"
    for name in (
        "committed",
        "count_hit",
        "lookups_of",
        "namespace_lookups",
        "open",
        "peek_alias",
        "ready",
        "recaller",
        "take_touches",
    )
} | {
    "asteady.Session.opened_by",
    # How a session and its engine talk to a recording.
    "asteady.testing.Recording.answer",
    "asteady.testing.Recording.note",
}
CALLABLES = {path: obj for path, obj in public_callables() if path not in INTERNAL}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_what_is_exported_lazily_is_what_type_checkers_see(module: ModuleType) -> None:
    assert module.__file__ is not None
    tree = ast.parse(Path(module.__file__).read_text("utf-8"))
    checked = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in node.body
        if isinstance(child, ast.ImportFrom)
        for alias in child.names
    }
    if not checked:
        pytest.skip("this module imports what it exports")
    submodules = {"blocking", "operate", "server", "testing", "steadytext"}
    own = {"__version__"}
    assert set(module.__all__) - own == checked - submodules
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018


def test_classes_and_functions_say_that_they_are_from_a_public_module() -> None:
    for path, obj in public_objects():
        if inspect.isclass(obj) or inspect.isfunction(obj):
            module = importlib.import_module(obj.__module__)
            assert "._" not in obj.__module__, path
            assert getattr(module, obj.__name__) is obj, path


@pytest.mark.parametrize("path", CALLABLES)
def test_type_hints_can_be_resolved_and_are_public(path: str) -> None:
    for hint in typing.get_type_hints(CALLABLES[path], include_extras=True).values():
        for found in types_in(hint):
            if found.__module__.split(".")[0] == "asteady":
                assert "._" not in found.__module__, f"{path}: {found}"


def types_in(hint: Any) -> Iterator[type]:
    if inspect.isclass(hint) and not typing.get_args(hint):
        yield hint
    for argument in typing.get_args(hint):
        for inner in argument if isinstance(argument, list) else [argument]:
            yield from types_in(inner)


@pytest.mark.parametrize("path", CALLABLES)
def test_no_signature_shows_a_private_parameter_or_hides_options(path: str) -> None:
    obj = CALLABLES[path]
    if inspect.isclass(obj) and (
        getattr(obj, "_is_protocol", False)
        or issubclass(obj, BaseException | dict)
        or obj.__init__ is object.__init__
    ):
        return
    for parameter in inspect.signature(obj).parameters.values():
        assert not parameter.name.startswith("_"), path
        if parameter.kind is parameter.VAR_KEYWORD and not typing.is_typeddict(obj):
            assert path in PASSES_ON, f"{path} hides **{parameter.name}"


# They pass arguments on to a function that the caller names.
PASSES_ON = {
    "asteady.blocking.run",
    "asteady.operate.CacheMonitor.run",
    "asteady.operate.CacheMonitor.monitor_operation",
    "asteady.blocking.CacheMonitor.run",
    "asteady.blocking.CacheMonitor.monitor_operation",
    "asteady.steadytext.CacheMonitor.run",
    "asteady.steadytext.CacheMonitor.monitor_operation",
}


@pytest.mark.parametrize(
    "call",
    [
        asteady.generate,
        asteady.Session.generate,
        asteady.Session.stream,
        asteady.blocking.generate,
        asteady.Namespace.complete,
        asteady.Prefix.generate,
    ],
)
def test_every_option_is_shown_with_its_default(call: Any) -> None:
    parameters = inspect.signature(call).parameters
    assert parameters.keys() >= asteady.GenerateOptions.__annotations__.keys()
    assert parameters["seed"].default == 42
    assert parameters["max_new_tokens"].default == 512


def test_settings_are_shown_as_arguments_of_a_session() -> None:
    for session in (asteady.Session, asteady.blocking.Session):
        parameters = inspect.signature(session).parameters
        assert parameters.keys() >= asteady.SettingsOptions.__annotations__.keys()
        assert parameters["cache_policy"].default == "tide"


def test_a_traceback_names_the_public_module() -> None:
    error = asteady.QueueFullError("full")
    assert f"{type(error).__module__}.{type(error).__qualname__}" == "asteady.QueueFullError"
    assert isinstance(pickle.loads(pickle.dumps(error)), asteady.QueueFullError)
