"""Inputs and parameters in the fields of a form.

A field has the name of a column; any file suits a model whose one input is a file. Several fields of one name are
several inputs, as is a name that ends with []. `inputs`, `parameters` and `options` mean what they do in JSON.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from regraft.contracts import Column
from regraft.endpoint.form_fields import FormField
from regraft.endpoint.http_errors import wrong
from regraft.endpoint.json_body import parse_json, refuse_deep
from regraft.plugins import unknown
from regraft.spec.serve import LimitSpec

INPUTS = "inputs"
JSON_FIELDS = ("parameters", "options", "stream")
_MORE = "[]"
"""Ending of a field's name of which there may be several, as PHP and many scripts write it."""


class FormInputs:
    """The fields of a form as the document that the same request has in JSON; files are bytes in it."""

    def __init__(self, wanted: Mapping[str, Column], names: Mapping[str, str], limits: LimitSpec) -> None:
        """`names` are columns by the other names that clients send for them."""
        self._wanted, self._names, self._limits = wanted, names, limits

    def most_fields(self) -> int:
        """Return the number of fields that a form may have."""
        return self._limits.items * len(self._wanted) + len(JSON_FIELDS)

    def document(self, fields: Sequence[FormField]) -> tuple[dict[str, Any], bool]:
        """Return the document, and whether its inputs are several. Raises HttpError 422."""
        document: dict[str, Any] = {}
        values: dict[str, list[Any]] = defaultdict(list)
        several = False
        for field in fields:
            if field.name in JSON_FIELDS:
                document[field.name] = self._json(field)
                continue
            column = self._column(field)
            several |= field.name.endswith(_MORE)
            values[column].append(self._value(field, column))
        if not values or (INPUTS in values and len(values) > 1):
            raise wrong(
                f"the form holds no input, or several kinds: write a field for each of {', '.join(self._wanted)}"
            )
        counts = {name: len(found) for name, found in values.items()}
        if len(set(counts.values())) > 1:
            shown = ", ".join(f"{count} of {name!r}" for name, count in counts.items())
            raise wrong(f"the form holds {shown}: write as many fields of each")
        rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
        several |= len(rows) > 1
        items: list[Any] = [row[INPUTS] for row in rows] if INPUTS in values else rows
        if INPUTS in values and not several and isinstance(items[0], list):
            items, several = items[0], True
        document[INPUTS] = items if several else items[0]
        return document, several

    def _column(self, field: FormField) -> str:
        """Return the column that a field is for; `inputs` for one that holds all columns as JSON."""
        name = field.name.removesuffix(_MORE)
        name = name if name in self._wanted else self._names.get(name, name)
        if name in self._wanted:
            return name
        if len(self._wanted) == 1 and (field.is_file or name == INPUTS):
            return next(iter(self._wanted))
        if name == INPUTS:
            return INPUTS
        known = [*self._wanted, INPUTS, *JSON_FIELDS]
        raise wrong(unknown("field", name[:80], known))

    def _value(self, field: FormField, name: str) -> Any:
        """Return a file's bytes, a text, or JSON: what the column's kind takes."""
        column = self._wanted.get(name)
        if column is None or field.media_type.endswith("json"):
            return self._json(field)
        if column.media_type and field.is_file:
            return field.content
        return field.text() if _takes_text(column) else self._json(field)

    def _json(self, field: FormField) -> Any:
        found = parse_json(field.content, field.name[:80])
        refuse_deep(found, self._limits.depth)
        return found


def _takes_text(column: Column) -> bool:
    """Return whether a text is a value of the column, by its schema."""
    schema = column.request_schema()
    return any(allowed.get("type") == "string" for allowed in (schema, *schema.get("anyOf", ())))
