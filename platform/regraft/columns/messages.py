"""`messages`: a conversation."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import pyarrow as pa

from regraft.contracts.column import (
    Allowance,
    BadCell,
    Column,
    MadeUp,
    Widget,
    absent,
    json_name,
    quoted,
    received_text,
)
from regraft.contracts.likeness import CellSample, Likeness
from regraft.contracts.prose import language_of
from regraft.contracts.views import MOST_LETTERS, ConversationView, ShownRow
from regraft.units import with_article

KEYS = ("role", "content")
SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
_SENDERS = {
    **dict.fromkeys(("human", "user"), USER),
    **dict.fromkeys(("gpt", "chatgpt", "assistant", "model", "bot"), ASSISTANT),
    "system": SYSTEM,
}
"""Senders of ShareGPT and its like, with the roles that they have."""
_CALLS = ("tool_calls", "function_call")
_LONGEST_LITERAL = 1 << 20
_LEAVE_OUT = "leave the row out, or write it as text"
_TEXT_PARTS = ("text", "input_text", "output_text")


class MessagesColumn(Column):
    """A list of {role, content}, as the Chat Completions API has it."""

    arrow: ClassVar[pa.DataType] = pa.list_(pa.struct([(key, pa.string()) for key in KEYS]))
    joins: ClassVar[bool] = True
    widget: ClassVar[Widget] = "text"
    bare: ClassVar[bool] = True

    def read_cell(self, cell: object, folder: str) -> list[dict[str, str]]:
        """Return a conversation; a CSV cell holds it as JSON.

        Messages are {role, content}, or {from, value} as ShareGPT has them. Contents may be parts of text. Tool calls,
        pictures and messages that do not count in training are refused.
        """
        if isinstance(cell, str):
            cell = _parsed(cell)
        if isinstance(cell, Mapping):
            cell = _rows_of_columns(cell)
        if not isinstance(cell, list | tuple) or not cell:
            raise BadCell.unfit(cell, "a list of {role, content}")
        return [_message(number, message) for number, message in enumerate(cell, 1)]

    def join(self, cells: Mapping[str, object], folder: str) -> list[dict[str, str]]:
        """Return the conversation in Alpaca's columns: the last is the answer, those before it are what is asked.

        A column named `system` is the system's message; empty cells are left out. With one other column, that one holds
        the conversation.
        """
        others = [name for name in cells if name != SYSTEM]
        if len(others) == 1:
            return self._with_system(cells.get(SYSTEM), self.read_cell(cells[others[0]], folder))
        texts = {name: "" if absent(cell) else cell for name, cell in cells.items()}
        if wrong := next((name for name, text in texts.items() if not isinstance(text, str)), None):
            raise BadCell(f"{wrong}: {BadCell.unfit(texts[wrong], 'text')}")
        names = [name for name in texts if name != SYSTEM]
        if len(names) < 2:
            raise BadCell(f"{', '.join(texts)}: columns of what is asked and of the answer are wanted, in this order")
        asked = "\n".join(str(texts[name]) for name in names[:-1] if str(texts[name]).strip())
        turns = [(SYSTEM, texts.get(SYSTEM, "")), (USER, asked), (ASSISTANT, texts[names[-1]])]
        if empty := next((role for role, text in turns[1:] if not str(text).strip()), None):
            raise BadCell(f"{', '.join(names)}: the {empty}'s text is empty: write one, or leave the row out")
        return [{"role": role, "content": str(text)} for role, text in turns if str(text).strip()]

    def _with_system(self, system: object, messages: list[dict[str, str]]) -> list[dict[str, str]]:
        """Return a conversation behind the message of the system's that a column of its own holds."""
        if absent(system) or system == "":
            return messages
        if not isinstance(system, str):
            raise BadCell(f"{SYSTEM}: {BadCell.unfit(system, 'text')}")
        if messages[0]["role"] == SYSTEM:
            raise BadCell(f"{SYSTEM}: the conversation has a message of the system's too: leave one of them out")
        return [{"role": SYSTEM, "content": system}, *messages]

    def likeness(self, sample: CellSample) -> Likeness | None:
        """Recognise conversations."""
        turns = 0
        for cell in sample.cells:
            try:
                turns += len(self.read_cell(cell, sample.folder))
            except BadCell:
                return None
        return Likeness(0.95, f"conversations of {turns / len(sample.cells):.1f} messages on average")

    def described(self, sample: CellSample) -> tuple[str, str] | None:
        """Return the language of what is said."""
        said = [message["content"] for cell in sample.cells for message in self.read_cell(cell, sample.folder)]
        return "language", language_of(said)

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
            raise BadCell(f"is {with_article(json_name(value))}; allowed is a text, or a list of {{role, content}}")
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


def _parsed(text: str) -> object:
    """Return a list that a CSV cell holds as JSON, or as Python writes it. BadCell where it is neither."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know
            return ast.literal_eval(text.strip() if len(text) <= _LONGEST_LITERAL else "(")
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise BadCell("is text that is not JSON; a list of {role, content} is wanted") from None


def _message(number: int, message: object) -> dict[str, str]:
    """Return one message of a file's conversation as {role, content}. BadCell where something would be lost."""
    if not isinstance(message, Mapping):
        raise BadCell(f"holds {quoted(message)}; a message is {{role: ..., content: ...}}, both text")
    role, sender = message.get("role"), message.get("from")
    calls = [key for key in _CALLS if message.get(key)]
    if calls:
        raise BadCell(f"message {number} calls a tool ({calls[0]}); tool calls are not read: {_LEAVE_OUT}")
    if role is None and isinstance(sender, str):
        role = _role_of(number, sender)
    if message.get("weight") == 0 or message.get("train") is False:
        raise BadCell(f"message {number} says that it is not trained on (weight), which is not read: {_LEAVE_OUT}")
    content = message.get("content")
    text = _joined(number, message.get("value") if content is None else content)
    if not isinstance(role, str) or text is None:
        raise BadCell(f"holds {quoted(message)}; a message is {{role: ..., content: ...}}, both text")
    return {"role": role, "content": text}


def _role_of(number: int, sender: str) -> str:
    """Return the role of a ShareGPT message. BadCell for a tool's and for an unknown sender."""
    role = _SENDERS.get(sender.strip().lower())
    if role is None:
        raise BadCell(
            f"message {number} is from {sender!r}; read are messages from {', '.join(_SENDERS)}, "
            f"and tool calls are not: {_LEAVE_OUT}"
        )
    return role


def _joined(number: int, content: object) -> str | None:
    """Return a content as one text; None where it is neither text nor parts. BadCell for parts that are no text."""
    if isinstance(content, str) or not isinstance(content, list | tuple):
        return content if isinstance(content, str) else None
    texts = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        text = part.get("text") if isinstance(part, Mapping) else part
        if kind not in _TEXT_PARTS or not isinstance(text, str):
            raise BadCell(f"message {number} holds a part of type {kind!r}; only text is read: {_LEAVE_OUT}")
        texts.append(text)
    return "".join(texts)


def _rows_of_columns(cell: Mapping[str, Any]) -> object:
    """Return messages that are stored as a list of roles and one of contents, as `datasets` stored sequences."""
    lengths = {len(value) if isinstance(value, list) else -1 for value in cell.values()}
    if len(lengths) != 1 or lengths <= {-1, 0}:
        return cell
    return [dict(zip(cell, values, strict=True)) for values in zip(*cell.values(), strict=True)]
