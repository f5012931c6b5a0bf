"""Jinja's sandbox with bounds: a template neither runs for ever nor builds gigabytes.

Two things are counted, and nothing is measured in seconds: what one machine renders or refuses, all
do. Every text, list and mapping that a template makes has a size, that of its text, which is
limited: so nothing that is done with a single value takes long. And each pass of a loop, call,
filter and operator takes steps, more of them for larger values.
"""

from __future__ import annotations

import functools
import re
import string
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from itertools import chain
from typing import Any

import jinja2
from jinja2 import nodes, pass_context
from jinja2.nodes import EvalContext
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner, Namespace
from jinja2.visitor import NodeTransformer

from asteady._engine.preparer import check_wanted

# Of a call or a filter, which takes that many times as long as a pass of a loop.
_CALL_STEPS = 10
# So many are copied or compared in the time of a step.
_CHARACTERS_PER_STEP = 128
_ITEMS_PER_STEP = 4
# Of the syntax of a template, most of which is not reached in one pass.
_NODES_PER_STEP = 8
# These take longer for each item or character than others.
_SLOW = frozenset({"groupby", "max", "min", "sort", "unique", "title", "urlencode", "wordcount"})
_SLOWNESS = 30
# These look at no item of a list, or not into the items.
_AT_NONE = frozenset({"attr", "call", "count", "d", "default", "first", "last", "length"})
_AT_ITEMS = frozenset(
    {"batch", "dictsort", "groupby", "items", "list", "map", "max", "min", "reject", "rejectattr"}
    | {"reverse", "select", "selectattr", "slice", "sort", "unique"}
)
# Tests that look at all of a value.
_LOOKING = frozenset(
    {"!=", "<", "<=", "==", ">", ">=", "eq", "equalto", "ge", "greaterthan", "gt", "in", "le"}
    | {"lessthan", "lower", "lt", "ne", "upper"}
)
# Made for web pages, and slow in ways that depend on the text; or with another result each time.
_LEFT_OUT = ("pprint", "random", "striptags", "urlize", "wordwrap", "xmlattr")
# No template needs the bytes of a text or a number.
_NO_METHODS = frozenset({"encode", "to_bytes"})

_MAX_BITS = 64
_MAX_DEPTH = 200
_MAX_DIGITS = 308
_MAX_WIDTH = 9999
# In a format string, as in "%99999d", or one from the arguments.
_WIDE = re.compile(r"\d{5}|%[^a-zA-Z%]*\*")
_WIDE_SPEC = re.compile(r"\d{5}|[{]")
_OTHER_SIZE = 8
# They can hold any value, and another one later: the size of a list of them would say nothing.
_CHANGING = (Namespace, LoopContext, Cycler, Joiner)

# By their own types, as asking abstract ones takes ten times as long.
_NO_ITEMS: dict[Any, Any] = {}
_LISTS = (list, tuple, type(_NO_ITEMS.keys()), type(_NO_ITEMS.values()))
_PAIRS = type(_NO_ITEMS.items())

_COUNTED, _COMPARED, _MADE = "asteady counted", "asteady compared", "asteady made"
_JOINED, _TAKEN = "asteady joined", "asteady taken"


class TemplateLimitError(Exception):
    """A template was stopped; the message says at which bound."""


class _Render(threading.local):
    """What the template that this thread renders may still do; at first, what may be computed while
    one is compiled."""

    def __init__(self) -> None:
        self.begin(steps=10**6, characters=2**20)

    def begin(self, *, steps: int, characters: int) -> None:
        self.steps = steps
        self.characters = characters
        # By identity, for which they are kept: size and depth of what a template can hold, none of
        # which changes.
        self.measured: dict[int, tuple[Any, int, int]] = {}


class _Passes:
    """What a loop goes through, and what is to be called in each pass."""

    def __init__(self, items: Iterable[Any], begin: Callable[[], None]) -> None:
        self._items = items
        self._begin = begin

    def __len__(self) -> int:
        # A TypeError for a generator, whose items jinja2 gathers if it has to know.
        return len(self._items)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            self._begin()
            yield item


class _Namespace(Namespace):
    """Without its content in its text, as that alone can grow without bounds."""

    def __repr__(self) -> str:
        return "<Namespace>"


class _Bounds(NodeTransformer):
    """Sends through filters what jinja2 does itself."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        steps = nodes.Const(_steps_through(node))
        self.generic_visit(node)
        node.iter = _filtered(node.iter, _COUNTED, [steps])
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._called(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        return self._called(node)

    def _called(self, node: nodes.Macro | nodes.CallBlock) -> nodes.Node:
        steps = _filtered(nodes.Const(_steps_through(node), lineno=node.lineno), _TAKEN, [])
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(steps, lineno=node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node.nodes[0], _JOINED, node.nodes[1:])

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        sides: list[nodes.Compare | nodes.Operand] = [node, *node.ops]
        for side in sides:
            if not isinstance(side.expr, nodes.Const):
                side.expr = _filtered(side.expr, _COMPARED, [])
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, _MADE, []) if isinstance(node.arg, nodes.Slice) else node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return self._made(node, node.items)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        return self._made(node, node.items) if node.ctx == "load" else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return self._made(node, [part for pair in node.items for part in (pair.key, pair.value)])

    def _made(self, node: nodes.Node, items: list[nodes.Expr]) -> nodes.Node:
        self.generic_visit(node)
        constant = all(isinstance(item, nodes.Const) for item in items)
        return node if constant else _filtered(node, _MADE, [])


def _plain(value: Any) -> str:
    return str.__str__(value) if isinstance(value, str) else str(value)


def _steps_through(node: nodes.Node) -> int:
    """Of one pass through this part of a template, besides its filters, calls and loops."""
    parts = list(node.find_all(nodes.Node))
    written = sum(len(part.data) for part in parts if isinstance(part, nodes.TemplateData))
    return 1 + len(parts) // _NODES_PER_STEP + written // _CHARACTERS_PER_STEP


def _filtered(node: Any, name: str, arguments: list[nodes.Expr]) -> nodes.Filter:
    return nodes.Filter(node, name, arguments, [], None, None, lineno=node.lineno)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Compile what `parse` returns, and render it with `render_bounded`; usable from any thread."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, filters: Mapping[str, Callable[..., Any]], **options: Any) -> None:
        super().__init__(finalize=self._look_at, **options)
        self._render = _Render()
        self._recursion_steps = 1
        filters = {**self.filters, **filters, "sum": self._sum()}
        for name in _LEFT_OUT:
            del filters[name]
        self.filters = {name: self._bounded(name, fn) for name, fn in filters.items()}
        self.filters |= {
            _COUNTED: self._of_context(self._counted),
            _COMPARED: self._of_context(lambda value: self.compared(self._look_at(value))),
            _MADE: self._of_context(self._check_made),
            _JOINED: self._of_context(self._joined),
            _TAKEN: self._of_context(self._step),
        }
        self.tests |= {name: self._bounded(name, self.tests[name]) for name in _LOOKING}
        del self.globals["lipsum"]
        self.globals["namespace"] = _Namespace

    def parse(
        self, source: str, name: str | None = None, filename: str | None = None
    ) -> nodes.Template:
        parsed = super().parse(source, name, filename)
        self._recursion_steps = _steps_through(parsed)
        template: nodes.Template = _Bounds().visit(parsed)
        template.set_environment(self)
        return template

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in _NO_METHODS and super().is_safe_attribute(obj, attr, value)

    def compared(self, value: Any) -> Any:
        """What a comparison sees of a value."""
        return value

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
        self._render.begin(steps=steps, characters=characters)
        parts, length = [], 0
        try:
            for part in template.generate(variables):
                length += len(part)
                if length > characters:
                    raise TemplateLimitError(f"it writes more than {characters:,} characters")
                parts.append(part)
        finally:
            self._render.measured.clear()
        return "".join(parts)

    # What the templates do comes through here.

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        # jinja2 calls it so, since a template may name its arguments as it likes.
        # The sandbox wraps the methods that format.
        subject = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
        args = tuple(map(__self._settled, args))
        if isinstance(subject, str):
            name = __obj.__name__
            # In the order of the filter's arguments.
            given = (*args, subject) if name == "join" else (subject, *args)
            __self._check_arguments(f"str.{name}", given, kwargs)
        elif isinstance(subject, list | tuple):
            __self._check_arguments("list.", (subject, *args), kwargs)
        else:
            __self._check_arguments("call", args, kwargs)
        if isinstance(__obj, LoopContext):
            args = (__self._counted(args[0], __self._recursion_steps), *args[1:])
        return __self._check_made(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        self._step()
        numbers = isinstance(left, int) and isinstance(right, int)
        if operator == "*" and not numbers:
            for value, times in ((left, right), (right, left)):
                if isinstance(value, Sized) and isinstance(times, int):
                    self._check_size(self._size(value) * times)
        elif operator == "**" and numbers and left.bit_length() * max(right, 1) > _MAX_BITS:
            raise self._too_many_bits()
        elif operator == "%" and isinstance(left, str):
            self._check_arguments("format", (left, right), {})
        return self._check_made(super().call_binop(context, operator, left, right))

    def _bounded(self, name: str, fn: Any) -> Callable[..., Any]:
        @functools.wraps(fn)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            args = tuple(map(self._settled, args))
            # Jinja gives one of these first to the filters that want it.
            first = args and isinstance(args[0], jinja2.Environment | Context | EvalContext)
            given = args[1:] if first else args
            self._check_arguments(name, given, kwargs)
            result = fn(*args, **kwargs)
            return result if name in _AT_NONE else self._check_made(result)

        return bounded

    def _of_context(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """With a context jinja2 does not compute it while it compiles."""

        @pass_context
        def filtered(_: Context, *args: Any) -> Any:
            return fn(*args)

        return filtered

    def _sum(self) -> Callable[..., Any]:
        @pass_context
        def sum_of(context: Context, items: Any, attribute: Any = None, start: Any = 0) -> Any:
            if attribute is not None:
                items = self.call_filter("map", items, None, {"attribute": attribute}, context)
            for item in items:
                start = self.call_binop(context, "+", start, item)
            return start

        return sum_of

    def _counted(self, items: Iterable[Any], steps: int) -> Iterable[Any]:
        return _Passes(items, functools.partial(self._step, steps))

    def _joined(self, *parts: object) -> str:
        self._step(1 + self._check_size(sum(map(self._size, parts))))
        return "".join(map(str, parts))

    def _settled(self, value: Any) -> Any:
        """What comes from a generator has a size too."""
        if not isinstance(value, Iterator) or isinstance(value, LoopContext):
            return value
        items = list(value)
        self._check_made(items)
        return iter(items)

    def _look_at(self, value: Any) -> Any:
        value = self._settled(value)
        self._step(self._check_size(self._size(value)))
        return value

    def _check_made(self, value: Any) -> Any:
        if isinstance(value, int):
            if value.bit_length() > _MAX_BITS:
                raise self._too_many_bits()
            return value
        steps = self._check_size(self._size(value))
        self._step(len(value) // _ITEMS_PER_STEP if isinstance(value, list | tuple) else steps)
        return value

    def _check_arguments(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        steps, total = 0, 0
        for value in chain(args, kwargs.values()):
            size = self._size(value)
            total += size
            deep_steps = self._check_size(size)
            if name in _AT_ITEMS and not isinstance(value, str):
                steps += len(value) // _ITEMS_PER_STEP if isinstance(value, Sized) else 0
            elif name not in _AT_NONE:
                steps += deep_steps
        slow = name in _SLOW or (name == "tojson" and len(args) + len(kwargs) > 1)
        self._step(_CALL_STEPS + (steps * _SLOWNESS if slow else steps))
        self._check_size(self._written(name, args, kwargs, total))

    def _written(
        self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], total: int
    ) -> int:
        """A bound on the size of the result of what can make a large one from small arguments."""
        values = [*args, *kwargs.values()]
        rest = values[1:]
        number = max((value for value in rest if isinstance(value, int)), default=0)
        match name.removeprefix("str."):
            case "center" | "ljust" | "rjust" | "zfill":
                return number
            case "expandtabs":
                return str(values[0]).count("\t") * (number if rest else 8)
            case "indent":
                width = max([number, *(len(value) for value in rest if isinstance(value, str))])
                return (len(str(values[0]).splitlines()) + 1) * width
            case "replace" if len(values) > 2:
                old, new = kwargs.get("old", rest[0]), kwargs.get("new", rest[1])
                # Of a literal, as it is and with its marks.
                text, looked_for = str(values[0]), {str(old), _plain(old)}
                return total + sum(map(text.count, looked_for)) * self._size(new)
            case "join":
                between = kwargs.get("d", rest[0] if rest else "")
                return total + self._items(values[0]) * self._size(between)
            case "translate":
                return total * len(values[0])
            case "batch" | "slice":
                return number * _CHARACTERS_PER_STEP
            case "round" if number > _MAX_DIGITS:
                raise TemplateLimitError(f"it rounds to more than {_MAX_DIGITS} digits")
            case "tojson":
                # An item has a size of three or more.
                wide = number * self._depth(values[0]) + sum(map(self._size, rest))
                return total + wide * total // 3 if rest else 0
            case "format" | "format_map" if name.startswith("str."):
                return total + self._written_by_fields(values[0], total)
            case "format":
                return total + self._written_by_percent(str(values[0]), rest, total)
        return 0

    def _written_by_percent(self, text: str, values: list[Any], total: int) -> int:
        if _WIDE.search(text):
            raise self._too_large()
        fields = text.count("%")
        named = any(isinstance(value, dict) for value in values)
        return fields * (total if named else _MAX_WIDTH if re.search(r"\d", text) else 0)

    def _written_by_fields(self, text: str, total: int) -> int:
        size = 0
        for _, field, spec, _ in string.Formatter().parse(text):
            if field is None:
                continue
            if "." in field or _WIDE_SPEC.search(spec or ""):
                raise self._too_large()
            size += (total if field else 0) + (_MAX_WIDTH if spec else 0)
        return size

    # Sizes.

    def _size(self, value: Any) -> int:
        """The number of characters of its text, about."""
        if isinstance(value, str):
            return len(value)
        return self._measured(value)[1]

    def _depth(self, value: Any) -> int:
        return self._measured(value)[2]

    def _measured(self, value: Any) -> tuple[Any, int, int]:
        items: Iterable[Any]
        if isinstance(value, _LISTS):
            items = value
        elif isinstance(value, dict):
            items = chain(value, value.values())
        elif isinstance(value, _PAIRS):
            items = chain.from_iterable(value)
        elif isinstance(value, range):
            return value, len(value) * _OTHER_SIZE, 1
        else:
            return value, _OTHER_SIZE, 0
        known = self._render.measured.get(id(value))
        if known is not None:
            return known
        size, depth = 2, 1
        for item in items:
            if isinstance(item, str):
                size += len(item) + 2
                continue
            if item is None or isinstance(item, int | float):
                size += _OTHER_SIZE + 2
                continue
            _, inner_size, inner_depth = self._measured(item)
            if isinstance(item, _CHANGING):
                raise TemplateLimitError(f"it makes a list of a {type(item).__name__}")
            size += inner_size + 2
            if inner_depth >= depth:
                depth = inner_depth + 1
                if depth > _MAX_DEPTH:
                    raise TemplateLimitError(f"it nests values deeper than {_MAX_DEPTH}")
        known = self._render.measured[id(value)] = (value, size, depth)
        return known

    def _items(self, value: Any) -> int:
        if isinstance(value, Iterator):
            return value.__length_hint__()  # type: ignore[attr-defined,no-any-return]  # of a list
        return len(value) if isinstance(value, Sized) else 0

    def _check_size(self, size: int) -> int:
        """The steps that something of this size takes."""
        if size > self._render.characters:
            raise self._too_large()
        return size // _CHARACTERS_PER_STEP

    def _step(self, steps: int = 1) -> None:
        check_wanted()
        self._render.steps -= steps
        if self._render.steps < 0:
            raise TemplateLimitError("it takes too many steps")

    def _too_large(self) -> TemplateLimitError:
        return TemplateLimitError(
            f"it makes a value of more than {self._render.characters:,} characters or items"
        )

    def _too_many_bits(self) -> TemplateLimitError:
        return TemplateLimitError(f"it makes a number of more than {_MAX_BITS} bits")
