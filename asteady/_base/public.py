"""Public names: users see and import them from a public package, wherever they are written."""

from __future__ import annotations

import sys

# Nothing that takes time is imported here: the command line must handle Ctrl-C soon.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, TypeVar

    T = TypeVar("T")


def public(obj: T) -> T:
    """Decorate a class or function that users import from the public package above its module.

    Sets ``__module__``, so that tracebacks, `help` and docs say ``asteady.QueueFullError``.
    `typing.get_type_hints` looks a class's annotations up in the module that ``__module__`` names,
    so they are evaluated here, where their names are known.
    """
    module = obj.__module__
    names: list[str] = []
    for part in module.split("."):
        if part.startswith("_"):
            break
        names.append(part)
    if isinstance(obj, type):
        known = vars(sys.modules[module])
        for name, annotation in obj.__annotations__.items():
            if isinstance(annotation, str):
                obj.__annotations__[name] = eval(annotation, known, {obj.__name__: obj})
    obj.__module__ = ".".join(names)
    return obj


def lazy_exports(
    package: str, modules: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__``, ``__all__`` of a package that imports its exports on first use.

    `modules` has the exported names, separated by spaces, by the full name of their module; an
    empty string stands for the module itself. Type checkers need the same imports under
    ``TYPE_CHECKING``, as ``from module import name as name``.
    """
    homes = {
        name: module
        for module, names in modules.items()
        for name in names.split() or [module.rpartition(".")[2]]
    }
    namespace = vars(sys.modules[package])

    def __getattr__(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        import importlib

        from asteady._base.forks import fork_gate

        # In a child that another thread forks meanwhile, the import would never end.
        with fork_gate:
            module = importlib.import_module(homes[name])
        value = module if not modules[homes[name]] else getattr(module, name)
        namespace[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*namespace, *homes})

    return __getattr__, __dir__, sorted(name for name, home in homes.items() if modules[home])
