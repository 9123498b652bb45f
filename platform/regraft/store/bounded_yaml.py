"""YAML within bounds: written without aliases, and read with few nodes, little depth and a small expansion."""

from __future__ import annotations

from typing import Any

import yaml

MOST_BYTES = 4 << 20
"""Size of the largest YAML text that is read."""
MOST_NODES = 100_000
"""Most values and keys that a text may write."""
MOST_ALIASED = 1_000
"""Most values and keys that its aliases may stand for: ten lists that name one another ten times are ten billion."""
MOST_DEPTH = 100
"""Deepest nesting, aliases included."""


class _Dumper(yaml.SafeDumper):
    """Writes every value where it belongs, also one that stands in several places."""

    def ignore_aliases(self, data: Any) -> bool:
        """Return True: an alias would save a few bytes, and other readers may refuse it."""
        return True


def dump_yaml(document: Any, **options: Any) -> str:
    """Return a document as YAML in the order of its keys, without aliases; `options` are those of `yaml.dump`."""
    text: str = yaml.dump(document, Dumper=_Dumper, **{"sort_keys": False, "allow_unicode": True, **options})
    return text


class BoundedComposer:
    """Part of a loader: counts nodes while they are composed, before any value is made of them.

    It stands before PyYAML's own classes: `class Loader(BoundedComposer, yaml.SafeLoader)`.
    """

    def __init__(self, text: str | bytes) -> None:
        if len(text) > MOST_BYTES:
            raise yaml.YAMLError(f"the text has {len(text):,} characters; at most {MOST_BYTES:,} are read")
        super().__init__(text)  # type: ignore[call-arg]
        self._depth = self._nodes = self._aliased = 0
        self._extents: dict[int, tuple[int, int]] = {}
        """Nodes and depth of each finished node, by id: with what its aliases stand for."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node:
        """Compose the next node. Raises MarkedYAMLError where a bound is exceeded."""
        mark = self.peek_event().start_mark  # type: ignore[attr-defined]
        alias = self.check_event(yaml.AliasEvent)  # type: ignore[attr-defined]
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise _bound(f"is nested more than {MOST_DEPTH} levels deep", mark)
        node: yaml.Node = super().compose_node(parent, index)  # type: ignore[misc]
        if alias:
            self._count_alias(node, mark)
        else:
            self._count(node, mark)
        self._depth -= 1
        return node

    def _count_alias(self, node: yaml.Node, mark: yaml.Mark) -> None:
        extent = self._extents.get(id(node))
        if extent is None:
            raise _bound("is an alias of a value around it", mark)
        self._aliased += extent[0]
        if self._aliased > MOST_ALIASED:
            raise _bound(f"aliases stand for more than {MOST_ALIASED:,} values: write them out", mark)
        if self._depth + extent[1] - 1 > MOST_DEPTH:
            raise _bound(f"is nested more than {MOST_DEPTH} levels deep by its aliases", mark)

    def _count(self, node: yaml.Node, mark: yaml.Mark) -> None:
        self._nodes += 1
        if self._nodes > MOST_NODES:
            raise _bound(f"has more than {MOST_NODES:,} values", mark)
        extents = [self._extents[id(inner)] for inner in _inside(node)]
        count, depth = sum(extent[0] for extent in extents), max((extent[1] for extent in extents), default=0)
        self._extents[id(node)] = count + 1, depth + 1


def parse_as_written(text: str | bytes) -> Any:
    """Return the data of a YAML text with every scalar as the text that it is. Raises yaml.YAMLError."""
    return _TextLoader(text).get_single_data()


class _TextLoader(BoundedComposer, yaml.BaseLoader):
    """Reads lists, mappings and texts."""


def _inside(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [inner for pair in node.value for inner in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _bound(message: str, mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.composer.ComposerError(None, None, message, mark)
