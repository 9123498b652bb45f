"""Messages for what is wrong in a spec: one line a place, with what is written and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import ValidationError

from regraft.contracts import Loss, Method, Source, Task
from regraft.plugins import Frozen, Plugin, unknown
from regraft.spec.synonyms import meant

_BRANCH = re.compile(
    r"^(function-|constrained-|nullable|literal\[|tuple\[|dict\[|list\[|lax-or-strict|(str|float|int|bool)$)"
)
"""Parts of pydantic's path that name the branch of a union, and no key of the document."""
_INTERNAL = (
    (re.compile(r"(, unable to parse .*|, got a number with a fractional part)$"), ""),
    (re.compile(r"valid (dictionary|mapping) or instance of \w+"), "mapping of keys"),
    (re.compile("valid dictionary|valid mapping"), "mapping"),
    (re.compile("valid tuple|valid list"), "list"),
    (re.compile("Tuple|List"), "list"),
    (re.compile(" after validation"), ""),
    (re.compile("valid string"), "text"),
)
"""Words of pydantic's, with those of a spec's author."""
_SHOULD = "input should be "
_BOUND = re.compile("^(greater|less)")


def problems(error: ValidationError, root: type[Frozen], document: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the messages of all errors in a document; those of one place, where several forms are allowed, are one."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for item in error.errors():
        found.setdefault(_path(item), []).append(item)
    # Where a list is written, the other branches of a union complain about its place, and one about an item inside.
    outer = {path for path in found if any(_inside(other, path) for other in found)}
    return tuple(
        message
        for path, items in found.items()
        for message in dict.fromkeys(_messages(path, items, root, document))
        if path not in outer or _SHOULD not in message
    )


def problem(item: Mapping[str, Any], root: type[Frozen], document: Mapping[str, Any]) -> str:
    """Return the message of one pydantic error: path, what was written, what is allowed, the nearest match."""
    return _messages(_path(item), [item], root, document)[0]


def known_keys(parent: str, root: type[Frozen], document: Mapping[str, Any]) -> list[str]:
    """Return the keys allowed at a dotted path; at a plugin's, those of the member that the document names there."""
    families: dict[str, type[Plugin]] = {"task": Task, "method": Method, "losses": Loss, "data.format": Source}
    families |= {f"stages.{place}": root for place, root in families.items()}
    family = families.get(".".join(part for part in parent.split(".") if not part.isdigit()))
    at: Any = document
    model: Any = root
    for part in filter(None, parent.split(".")):
        if isinstance(at, list | tuple):
            at = at[int(part)]
            continue
        at = at[part]
        model = None if family else model.model_fields[part].annotation
        model = next((kind for kind in get_args(model) if hasattr(kind, "model_fields")), model)
    if family:
        model = family.lookup(at["type"] if isinstance(at, Mapping) else str(at))
    return list(model.model_fields)


def _path(item: Mapping[str, Any]) -> str:
    return ".".join(str(part) for part in item["loc"] if not _BRANCH.match(str(part)))


def _inside(inner: str, outer: str) -> bool:
    return inner.startswith(f"{outer}.") if outer else False


def _messages(
    path: str, items: Sequence[Mapping[str, Any]], root: type[Frozen], document: Mapping[str, Any]
) -> list[str]:
    """Return the messages of the errors at one place."""
    texts = [(item, _text(item)) for item in items]
    # A branch of a union that says more than which type it takes is the one that was meant.
    special = [(item, text) for item, text in texts if not text.startswith(_SHOULD)]
    if len(texts) > 1 and not special:
        allowed = " or ".join(
            dict.fromkeys(_BOUND.sub(r"a number \1", text.removeprefix(_SHOULD)) for _, text in texts)
        )
        return [f"{path}: {items[0].get('input')!r} is written; {_SHOULD}{allowed}{_quotes(items)}"]
    return [_message(path, item, text, root, document=document) for item, text in special or texts]


def _message(path: str, item: Mapping[str, Any], text: str, root: type[Frozen], *, document: Mapping[str, Any]) -> str:
    """Return the message of one error, whose sentence is `text`."""
    written, kind = item.get("input"), item["type"]
    if kind == "extra_forbidden":
        parent, _, name = path.rpartition(".")
        known = sorted(known_keys(parent, root, document))
        return f"{path}: {unknown('key', name, known, meant(name, known, root))}"
    if kind == "missing":
        return f"{path}: is missing; it must be written"
    if kind == "value_error":
        return f"{path}: {text}" if path else text
    if kind == "string_pattern_mismatch":
        return f"{path}: {written!r} is written; allowed are lower case letters, digits, dots, dashes (at most 64)"
    return f"{path}: {written!r} is written; {text}{_quotes([item])}"


def _quotes(items: Sequence[Mapping[str, Any]]) -> str:
    """Return the hint for a word that YAML reads as a number, a boolean or nothing, where only a word is allowed."""
    written = items[0].get("input")
    word = "null" if written is None else str(written).lower() if isinstance(written, bool) else str(written)
    kinds = {item["type"] for item in items}
    if "string_type" in kinds and len(items) == 1 and (written is None or isinstance(written, bool | int | float)):
        return f": write '{word[:40]}' in quotes" + (", or leave the key out" if written is None else "")
    if "literal_error" in kinds and isinstance(written, bool):
        return ": write the word in quotes"
    return ""


def _text(item: Mapping[str, Any]) -> str:
    """Return pydantic's own sentence in a spec's words."""
    if item["type"] == "value_error":
        return str(item["msg"]).removeprefix("Value error, ")
    text = str(item["msg"])
    for pattern, words in _INTERNAL:
        text = pattern.sub(words, text)
    return text[0].lower() + text[1:]
