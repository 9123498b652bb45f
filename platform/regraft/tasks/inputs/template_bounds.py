"""Jinja for templates of strangers: every operation is counted, and results are bounded before they are made.

A template runs under the interpreter's lock, where nothing can interrupt it. So loops count their turns, operators and
calls check the sizes of their operands, and a literal may not hold more values than a conversation does.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jinja2 import TemplateError, nodes, pass_context
from jinja2.nodes import Node
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.utils import chat_template_utils

SOURCE = 1 << 18
"""Most characters of a template."""
TEXT = 1 << 22
"""Most characters of one text, and most values in one list, with all that it holds."""
TOTAL = 1 << 26
"""Most characters and values that one rendering makes."""
OPERATIONS = 500_000
"""Most turns of loops, operators and calls of one rendering."""
SECONDS = 2.0
"""Most seconds of the processor for one rendering."""
NUMBER = 100_000
"""The largest whole number that a function or a filter is given; also Jinja's longest range."""
BITS = 1 << 13
"""Most bits of a whole number."""
WORK = 1 << 26
"""The largest product of the sizes of a function's arguments: an upper bound of what it does for most functions."""
_WIDTH = re.compile(r"\d{5,}")
_REMOVED_FILTERS = ("urlize", "pprint", "random", "wordwrap")
_CHEAP_FILTERS = ("length", "count", "first", "default", "d")
"""Filters whose work does not depend on what they are given."""
_REMOVED_NAMES = ("lipsum", "cycler", "joiner")
_LITERALS = (nodes.List, nodes.Tuple, nodes.Dict)
_OPERATORS = frozenset({"+", "-", "*", "/", "//", "**", "%"})


class TemplateTooCostly(TemplateError):
    """A template that takes more than it may."""

    def __init__(self, what: str) -> None:
        super().__init__(f"it {what}: no chat template needs that much, so write a simpler one in task.template")


class _Budget:
    """What one rendering has used."""

    def __init__(self) -> None:
        self._operations, self._made, self._until = 0, 0, time.thread_time() + SECONDS

    def step(self) -> None:
        """Count one operation."""
        self._operations += 1
        if self._operations > OPERATIONS:
            raise TemplateTooCostly(f"takes more than {OPERATIONS:,} operations")
        if time.thread_time() > self._until:
            raise TemplateTooCostly(f"takes more than {SECONDS:g} s of the processor")

    def made(self, value: Any) -> Any:
        """Count what was made, and return it."""
        self.step()
        self._made += _weight(value)
        if self._made > TOTAL:
            raise TemplateTooCostly(f"makes more than {TOTAL:,} characters in all")
        return value


_budget: ContextVar[_Budget | None] = ContextVar("template_budget", default=None)


@contextmanager
def bounded() -> Iterator[None]:
    """Bound what templates inside do together: one rendering, or one compilation."""
    before = _budget.set(_Budget())
    try:
        yield
    finally:
        _budget.reset(before)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with bounds on time and size."""

    intercepted_binops = _OPERATORS

    def bound(self) -> None:
        """Wrap this environment's filters. Called once, after all of them are set."""
        for name in _REMOVED_FILTERS:
            self.filters.pop(name, None)
        for name in _REMOVED_NAMES:
            self.globals.pop(name, None)
        self.filters = {name: _bounded_filter(name, function) for name, function in self.filters.items()}
        self.filters.update(regraft_counted=_counted, regraft_joined=_joined, regraft_made=_made_at_run_time)
        namespace: Any = self.globals["namespace"]
        self.globals["namespace"] = type("namespace", (namespace,), {"__repr__": _namespace_text})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Return the result of an operator whose operands are small enough for it."""
        _check_operands(operator, left, right)
        return _made(super().call_binop(context, operator, left, right))

    def call(self, context: Any, called: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Return the result of a call whose arguments are small enough for it."""
        itself = getattr(getattr(called, "__wrapped__", called), "__self__", None)
        formats = str(getattr(called, "__name__", "")) in ("format", "format_map", "strftime_now")
        given = [itself] if isinstance(itself, str) else []
        _check_arguments([*given, *args, *kwargs.values()], formats=formats, exempt=0)
        if isinstance(itself, str) and getattr(called, "__name__", "") == "replace":
            _check_replacement(itself, *args[:2])
        return _made(super().call(context, called, *args, **kwargs))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _rewrite(tree)
        return tree


def bounded_template(source: str) -> Any:
    """Compile a template as transformers does, with its extensions, filters and names, in a bounded environment."""
    if len(source) > SOURCE:
        raise TemplateTooCostly(f"has {len(source):,} characters; at most {SOURCE:,} are allowed")
    # A fresh environment of transformers: only of our class its compiler emits the calls that are bounded.
    environment: Any = chat_template_utils._cached_compile_jinja_template("").environment
    environment.__class__ = BoundedEnvironment
    environment.bound()
    return environment.from_string(source)


def plain_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return messages as transformers gives them to templates: of plain values, with every name of thoughts."""
    plain = [chat_template_utils._plain_template_data(dict(message)) for message in messages]
    found: list[dict[str, Any]] = chat_template_utils._alias_reasoning_fields(plain)
    return found


def limited(pieces: Iterable[str], blocks: list[str]) -> list[str]:
    """Collect a rendering's pieces in `blocks`, and return them."""
    length = 0
    for piece in pieces:
        _step()
        length += len(piece)
        if length > TEXT:
            raise TemplateTooCostly(f"writes more than {TEXT:,} characters")
        blocks.append(piece)
    return blocks


def _rewrite(node: Node) -> None:
    """Let loops, literals and joined texts below a node pass through the filters that count them."""
    for child in node.iter_child_nodes():
        _rewrite(child)
    for field, value in list(node.iter_fields()):
        if isinstance(value, list):
            setattr(node, field, [_replaced(item) for item in value])
        else:
            setattr(node, field, _replaced(value))
    if isinstance(node, nodes.Output):
        node.nodes = [_through("regraft_made", piece) for piece in node.nodes]
    if isinstance(node, nodes.For):
        if node.recursive:
            raise TemplateTooCostly("holds a recursive loop")
        node.iter = _through("regraft_counted", node.iter)


def _replaced(value: Any) -> Any:
    if isinstance(value, nodes.Concat):
        return _through("regraft_joined", nodes.List(value.nodes, lineno=value.lineno))
    stored = isinstance(value, nodes.Tuple) and value.ctx != "load"
    return _through("regraft_made", value) if isinstance(value, _LITERALS) and not stored else value


def _through(name: str, value: Any) -> nodes.Filter:
    return nodes.Filter(value, name, [], [], None, None, lineno=value.lineno)


class _Counted:
    """An iterable that counts the values taken from it."""

    def __init__(self, items: Any) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            _step()
            yield item

    def __len__(self) -> int:
        return len(self._items)  # a TypeError makes Jinja count by itself


def _counted(items: Any) -> Any:
    _step()
    return _Counted(items)


def _joined(parts: list[Any]) -> str:
    texts = [str(_made(part)) for part in parts]
    if sum(map(len, texts)) > TEXT:
        raise TemplateTooCostly(f"makes a text of more than {TEXT:,} characters")
    joined: str = _made("".join(texts))
    return joined


def _made(value: Any) -> Any:
    budget = _budget.get()
    if budget is not None:
        return budget.made(value)
    _weight(value)
    return value


@pass_context
def _made_at_run_time(_: Any, value: Any) -> Any:
    return _made(value)


def _namespace_text(_: object) -> str:
    return "<namespace>"  # its values may hold one another, and be endless as a text


def _step() -> None:
    if (budget := _budget.get()) is not None:
        budget.step()


def _weight(value: Any, so_far: int = 0) -> int:
    """Return the characters and values that a value holds, with what is in it twice counted twice."""
    if isinstance(value, bool) or value is None or isinstance(value, float):
        return 1
    if isinstance(value, int):
        if value.bit_length() > BITS:
            raise TemplateTooCostly(f"makes a number of more than {BITS:,} bits")
        return 1
    total = so_far + 1
    if isinstance(value, str | bytes):
        total += len(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            total += _weight(key, total) + _weight(item, total)
    elif isinstance(value, range):
        total += len(value)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            total += _weight(item, total)
    if total > TEXT:
        raise TemplateTooCostly(f"makes a text or list of more than {TEXT:,} characters or values")
    return total - so_far


def _size(value: Any) -> int:
    return abs(value) + 1 if isinstance(value, int) else _weight(value) + 1


def _check_operands(operator: str, left: Any, right: Any) -> None:
    """Raise TemplateTooCostly where an operator would make too much."""
    numbers = isinstance(left, int) and isinstance(right, int)
    if operator == "**" and numbers and left.bit_length() * max(right, 0) > BITS:
        raise TemplateTooCostly(f"makes a number of more than {BITS:,} bits")
    if operator == "*" and not numbers:
        times, many = (left, right) if isinstance(left, int) else (right, left)
        if isinstance(times, int) and isinstance(many, str | bytes | list | tuple) and times * len(many) > TEXT:
            raise TemplateTooCostly(f"makes a text or list of more than {TEXT:,} characters or values")
    if operator == "%" and isinstance(left, str | bytes):
        _check_arguments([left, *(right if isinstance(right, tuple) else (right,))], formats=True)


def _check_arguments(arguments: list[Any], *, formats: bool = False, exempt: int = 1) -> None:
    """Raise TemplateTooCostly for arguments of which a function could make too much.

    The first `exempt` arguments are values to write, which may be large numbers.
    """
    product = 1
    for number, argument in enumerate(arguments):
        if number >= exempt and isinstance(argument, int) and abs(argument) > NUMBER:
            raise TemplateTooCostly(f"gives a function a number beyond {NUMBER:,}")
        if formats and isinstance(argument, str) and _WIDTH.search(argument):
            raise TemplateTooCostly("holds a format with a width of five digits or more")
        product *= 1 if number < exempt and isinstance(argument, int) else _size(argument)
        if product > WORK:
            raise TemplateTooCostly("gives a function too much at once")


def _check_replacement(text: str, old: Any = "", new: Any = "") -> None:
    if isinstance(old, str) and isinstance(new, str) and len(text) + text.count(old) * len(new) > TEXT:
        raise TemplateTooCostly(f"makes a text of more than {TEXT:,} characters")


def _bounded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that checks its arguments and counts its result; Jinja's mark of its first argument is kept."""
    marked = getattr(function, "jinja_pass_arg", None)
    if name in _CHEAP_FILTERS:
        return function

    def filtered(*args: Any, **kwargs: Any) -> Any:
        values = args[1:] if marked is not None else args
        _check_arguments([*values, *kwargs.values()], formats=name == "format")
        if name == "replace" and values:
            _check_replacement(str(values[0]), *values[1:3])
        if name == "sum" and not isinstance(values[2] if len(values) > 2 else kwargs.get("start", 0), int | float):
            raise TemplateTooCostly("sums up what are no numbers")
        made = function(*args, **kwargs)
        return [_made(item) for item in made] if isinstance(made, Iterator) else _made(made)

    if marked is not None:
        filtered.jinja_pass_arg = marked  # type: ignore[attr-defined]
    if getattr(function, "jinja_async_variant", False):
        filtered.jinja_async_variant = True  # type: ignore[attr-defined]
    return filtered
