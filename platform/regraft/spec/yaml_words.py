"""YAML of specs: words stay words, labels stay as they are written, and no key may be written twice."""

from __future__ import annotations

import re
from typing import Any

import yaml

_BOOL = "tag:yaml.org,2002:bool"
_TEXT = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"
_LABELS, _WEIGHTS = "labels", "class_weights"
"""Keys whose lists, and whose own keys, are labels."""


class _Loader(yaml.SafeLoader):
    """Loads plain data; only `true` and `false` are booleans, as in YAML 1.2: `off`, `no` and `yes` are words."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own attribute
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(_BOOL, re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def parse_yaml(text: str, key: str = "") -> Any:
    """Return the data in a text. Raises ValueError, which says what is wrong and where.

    `key` is the dotted key that the text is the value of. Labels are the text that is written: YAML's own rules would
    read 001, 1.0 or null as other values.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _keep_labels(node, key.rpartition(".")[2], {})
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise ValueError(f"{error.problem or error.context}{where}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from None


def _keep_labels(node: yaml.Node, key: str, seen: dict[int, str]) -> None:
    """Mark the labels below `key` as text, and refuse keys that are written twice."""
    if seen.get(id(node)) == key:  # an alias, possibly of a node around it
        return
    seen[id(node)] = key
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _mark_text(item, marked=key == _LABELS)
            _keep_labels(item, key, seen)
    elif isinstance(node, yaml.MappingNode):
        _refuse_twice(node)
        for name, value in node.value:
            _mark_text(name, marked=key == _WEIGHTS)
            inner = str(name.value).rpartition(".")[2] if isinstance(name, yaml.ScalarNode) else ""
            _keep_labels(value, key if key in (_LABELS, _WEIGHTS) else inner, seen)


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
