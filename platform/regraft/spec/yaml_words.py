"""YAML of specs: words stay words, labels and names stay as they are written, and no key may be written twice."""

from __future__ import annotations

import re
from typing import Any

import yaml

from regraft.store.bounded_yaml import BoundedComposer

_BOOL = "tag:yaml.org,2002:bool"
_INT = "tag:yaml.org,2002:int"
_FLOAT = "tag:yaml.org,2002:float"
_NULL = "tag:yaml.org,2002:null"
_TIME = "tag:yaml.org,2002:timestamp"
_TEXT = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"
_LABELS, _WEIGHTS = "labels", "class_weights"
"""Keys whose lists, and whose own keys, are labels."""
_NAMES = ("columns", "group", "models", "name", "sha256", "targets")
"""Keys whose values are names: of columns and models, which may be numbers, dates or words for true and false."""


class _Loader(BoundedComposer, yaml.SafeLoader):
    """Loads plain data as YAML 1.2 has it: only `true` and `false` are booleans, and only plain decimals are numbers.

    YAML 1.1 reads `off` as false, 010 as 8, 1_000 as 1000, 1:30 as 90 and 2024-01-01 as a date: here they are words.
    Where a number belongs, a word such as 1e-4 or 010 is read as the decimal number that it is.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own attribute
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_BOOL, _INT, _FLOAT, _TIME)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(_BOOL, re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    _INT, re.compile(r"^[-+]?(?:0|[1-9][0-9]{0,99}|0x[0-9a-fA-F]{1,32})$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(
        r"^[-+]?(?:(?:0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+.0123456789"),
)


def parse_yaml(text: str, key: str = "") -> Any:
    """Return the data in a text. Raises ValueError, which says what is wrong and where.

    `key` is the dotted key that the text is the value of. Labels and names are the text that is written: YAML's own
    rules would read 001, 1.0 or null as other values. Aliases may stand for a thousand values at most.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        named = any(part in _NAMES for part in key.split("."))
        _keep_text(node, _NAMES[0] if named else key.rpartition(".")[2], {})
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise ValueError(f"{error.problem or error.context}{where}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from None


def _keep_text(node: yaml.Node, key: str, seen: dict[int, str]) -> None:
    """Mark labels and names below `key` as text, and refuse keys that are written twice."""
    if seen.get(id(node)) == key:  # an alias
        return
    seen[id(node)] = key
    if isinstance(node, yaml.ScalarNode):
        _mark_text(node, marked=key in _NAMES and node.tag != _NULL)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _mark_text(item, marked=key in (_LABELS, *_NAMES))
            _keep_text(item, key, seen)
    elif isinstance(node, yaml.MappingNode):
        _refuse_twice(node)
        for name, value in node.value:
            _mark_text(name, marked=key in (_WEIGHTS, *_NAMES))
            inner = str(name.value).rpartition(".")[2] if isinstance(name, yaml.ScalarNode) else ""
            _keep_text(value, key if key in (_LABELS, _WEIGHTS, *_NAMES) else inner, seen)


def _mark_text(node: yaml.Node, *, marked: bool) -> None:
    if marked and isinstance(node, yaml.ScalarNode) and node.value and node.tag != _MERGE:
        node.tag = _TEXT


def _refuse_twice(node: yaml.MappingNode) -> None:
    found = set()
    for name, _ in node.value:
        if not isinstance(name, yaml.ScalarNode) or name.tag == _MERGE:
            continue
        if (name.tag, name.value) in found:
            raise yaml.constructor.ConstructorError(None, None, f"{name.value!r} is written twice", name.start_mark)
        found.add((name.tag, name.value))
