"""`messages`: a conversation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

import pyarrow as pa

from regraft.contracts.column import Allowance, BadCell, Column, MadeUp, Widget, json_name, quoted, received_text
from regraft.contracts.views import MOST_LETTERS, ConversationView, ShownRow

KEYS = ("role", "content")


class MessagesColumn(Column):
    """A list of {role, content}, as the Chat Completions API has it."""

    arrow: ClassVar[pa.DataType] = pa.list_(pa.struct([(key, pa.string()) for key in KEYS]))
    widget: ClassVar[Widget] = "text"
    bare: ClassVar[bool] = True

    def read_cell(self, cell: object, folder: str) -> list[dict[str, str]]:
        """Return a conversation; a CSV cell holds it as JSON."""
        if isinstance(cell, str):
            try:
                cell = json.loads(cell)
            except ValueError:
                raise BadCell("is text that is not JSON; a list of {role, content} is wanted") from None
        if not isinstance(cell, list | tuple) or not cell:
            raise BadCell.unfit(cell, "a list of {role, content}")
        for message in cell:
            if not (isinstance(message, Mapping) and all(isinstance(message.get(key), str) for key in KEYS)):
                raise BadCell(f"holds {quoted(message)}; a message is {{role: ..., content: ...}}, both text")
        return [{key: message[key] for key in KEYS} for message in cell]

    def accept(self, value: Any) -> Any:
        """Return a list of messages, whose contents the task checks; a bare text is what the user says."""
        if isinstance(value, str):
            return [{"role": "user", "content": value}]
        value = value.tolist() if hasattr(value, "tolist") else value
        if not (isinstance(value, list | tuple) and value):
            raise BadCell(f"is {value!r}; allowed is a list of messages, {{role, content}}")
        return list(value)

    def receive(self, value: Any, allowance: Allowance) -> list[dict[str, str]]:
        """Return a conversation; a bare text is what its user says."""
        if isinstance(value, str):
            return [{"role": "user", "content": received_text(value)}]
        good = isinstance(value, list) and all(isinstance(item, dict) and set(KEYS) == set(item) for item in value)
        if not good or not value:
            raise BadCell(f"is a {json_name(value)}; allowed is a text, or a list of {{role, content}}")
        return [{name: received_text(each, f".{name}") for name, each in item.items()} for item in value]

    def request_schema(self) -> dict[str, Any]:
        """Return the schema of a string or a list of messages."""
        text = {"type": "string"}
        message = {
            "type": "object",
            "properties": dict.fromkeys(KEYS, text),
            "required": list(KEYS),
            "additionalProperties": False,
        }
        return {"anyOf": [text, {"type": "array", "minItems": 1, "items": message}]}

    def is_one(self, items: Any) -> bool:
        """Return whether the list is one conversation."""
        return isinstance(items, list | tuple) and any(isinstance(item, dict) and "role" in item for item in items)

    def placeholder(self) -> list[dict[str, str]]:
        """Return a conversation without content."""
        return [{"role": "user", "content": "..."}]

    def example(self, position: int) -> list[dict[str, str]]:
        """Return a conversation of one message."""
        return [{"role": "user", "content": "How do I reset the lamp?"}]

    def view(self, name: str, shown: ShownRow) -> ConversationView:
        """Return the conversation: who says what."""
        lines = tuple((message["role"], message["content"][:MOST_LETTERS]) for message in shown.row[name])
        return ConversationView(name, lines)

    def made_up(self, shared: MadeUp) -> list[dict[str, str]]:
        """Return one message of the user's, with a reply where the row is for training."""
        asked = {"role": "user", "content": " ".join(shared.words)}
        return [asked, {"role": "assistant", "content": shared.words[-1]}] if shared.train else [asked]
