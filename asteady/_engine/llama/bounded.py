"""Jinja's sandbox with bounds: a template neither runs for ever nor builds gigabytes.

A template only loops over what there is, so its steps can be counted: passes of loops, calls,
filters and operators. Nothing is measured in seconds: what one machine renders or refuses, all do.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any

import jinja2
from jinja2 import nodes, pass_context
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from asteady._engine.preparer import check_wanted

# Of a call or a filter, which takes that many times as long as a pass of a loop.
_CALL_STEPS = 10
# A call multiplies the sizes of its arguments at most (replace, join).
_MAX_GROWTH = 1000
_MAX_BITS = 4096
# A width in a format string, as in "%99999d" and "{:>99999}", or one from the arguments.
_WIDE = re.compile(r"\d{5}|%[^a-zA-Z%]*\*")

_COUNTED, _JOINED = "asteady counted", "asteady joined"


class TemplateLimitError(Exception):
    """A template was stopped; the message says at which bound."""


class _Render(threading.local):
    """What the template that this thread renders may still do; at first, what may be computed while
    one is compiled."""

    steps = 10**6
    characters = 2**20


class _Bounds(NodeTransformer):
    """Sends loops and ``~`` through filters."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, _COUNTED, [])
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node.nodes[0], _JOINED, node.nodes[1:])


def _filtered(node: Any, name: str, arguments: list[nodes.Expr]) -> nodes.Filter:
    return nodes.Filter(node, name, arguments, [], None, None, lineno=node.lineno)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Compile what `parse` returns, and render it with `render_bounded`; usable from any thread."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, filters: Mapping[str, Callable[..., Any]], **options: Any) -> None:
        super().__init__(**options)
        self._render = _Render()
        filters = {**self.filters, **filters}
        self.filters = {name: self._bounded(name, fn) for name, fn in filters.items()}
        self.filters |= {_COUNTED: self._counted(), _JOINED: self._joined()}
        del self.globals["lipsum"]

    def parse(
        self, source: str, name: str | None = None, filename: str | None = None
    ) -> nodes.Template:
        template: nodes.Template = _Bounds().visit(super().parse(source, name, filename))
        template.set_environment(self)
        return template

    def render_bounded(
        self,
        template: jinja2.Template,
        variables: Mapping[str, Any],
        *,
        characters: int,
        steps: int,
    ) -> str:
        """The text, of at most so many characters, written in at most so many steps.

        Raises:
            TemplateLimitError: the template needs more.
        """
        self._render.steps = steps
        self._render.characters = characters
        parts, length = [], 0
        for part in template.generate(variables):
            length += len(part)
            if length > characters:
                raise TemplateLimitError(f"it writes more than {characters:,} characters")
            parts.append(part)
        return "".join(parts)

    # What the templates do comes through here.

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        # jinja2 calls it so, since a template may name its arguments as it likes.
        # The sandbox wraps the methods that format.
        subject = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
        if isinstance(subject, str) and __obj.__name__ in ("format", "format_map"):
            __self._check_format(subject)
        __self._check_arguments((subject, *args, *kwargs.values()))
        return __self._check_result(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        self._step()
        numbers = isinstance(left, int) and isinstance(right, int)
        if operator == "*" and not numbers:
            sizes = [len(side) for side in (left, right) if isinstance(side, Sized)]
            times = [side for side in (left, right) if isinstance(side, int)]
            if sizes and times and sizes[0] * times[0] > self._render.characters:
                raise self._too_large()
        elif operator == "**" and numbers and left.bit_length() * max(right, 1) > _MAX_BITS:
            raise TemplateLimitError(f"it makes a number of more than {_MAX_BITS:,} bits")
        elif operator == "%" and isinstance(left, str):
            self._check_format(left)
            self._check_arguments((left, *(right if isinstance(right, tuple) else (right,))))
        return self._check_result(super().call_binop(context, operator, left, right))

    def _bounded(self, name: str, fn: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(fn)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            if name == "format":
                self._check_format(args[0])
            self._check_arguments((*args, *kwargs.values()))
            return self._check_result(fn(*args, **kwargs))

        return bounded

    def _counted(self) -> Callable[..., Iterable[Any]]:
        # With a context jinja2 does not compute it while it compiles.
        @pass_context
        def counted(_: Context, items: Iterable[Any]) -> Iterable[Any]:
            if isinstance(items, Sized):
                self._step(len(items))
                return items
            return self._each(items)

        return counted

    def _each(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self._step()
            yield item

    def _joined(self) -> Callable[..., str]:
        @pass_context
        def joined(_: Context, *parts: object) -> str:
            self._step()
            text = "".join(map(str, parts))
            self._check_result(text)
            return text

        return joined

    def _step(self, steps: int = 1) -> None:
        check_wanted()
        self._render.steps -= steps
        if self._render.steps < 0:
            raise TemplateLimitError("it takes too many steps")

    def _check_format(self, text: object) -> None:
        if isinstance(text, str) and _WIDE.search(text):
            raise self._too_large()

    def _check_arguments(self, values: tuple[Any, ...]) -> None:
        steps, product, limit = _CALL_STEPS, 1, self._render.characters
        for value in values:
            if isinstance(value, str):
                product *= len(value) + 1
            elif isinstance(value, list | tuple | dict | range):
                steps += len(value) // _CALL_STEPS
                product *= len(value) + 1
            elif isinstance(value, int) and abs(value) > limit:
                raise self._too_large()
        self._step(steps)
        if product > _MAX_GROWTH * limit:
            raise self._too_large()

    def _check_result(self, result: Any) -> Any:
        if isinstance(result, str | list | tuple):
            if len(result) > self._render.characters:
                raise self._too_large()
        elif isinstance(result, int) and result.bit_length() > _MAX_BITS:
            raise TemplateLimitError(f"it makes a number of more than {_MAX_BITS:,} bits")
        return result

    def _too_large(self) -> TemplateLimitError:
        return TemplateLimitError(
            f"it makes a value of more than {self._render.characters:,} characters or items"
        )
