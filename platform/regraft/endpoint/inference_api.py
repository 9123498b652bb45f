"""In which form is a model asked, and in which does it answer? The Hugging Face Inference API's, for every task.

One input is `{"inputs": ...}` and gets what the client of that task reads; a list of inputs gets a list of such
answers. What a client may set besides (`parameters`) is honoured or refused, never passed over in silence.
Answers are turned by what they hold, so that a task of the user's that answers as a classifier does reads like one;
one that answers in its own way is answered with its task's own answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from regraft.contracts import Answer, Task
from regraft.endpoint.http_errors import wrong
from regraft.plugins import unknown

Parameters = Mapping[str, Any]
Schema = dict[str, Any]
TEXTS = ("generated_text", "summary_text", "translation_text")


@dataclass(frozen=True)
class ApiForm:
    """How one kind of answer is told."""

    name: str
    """The task as the Inference API calls it."""
    tell: Callable[[Answer, Parameters], Any]
    """An answer of the task as one input's answer."""
    schema: Schema
    """JSON Schema of one input's answer."""
    parameters: Mapping[str, Schema]
    """What may be set, with its schema."""
    holds: tuple[str, ...] = ()
    """Keys of an answer, one of which must be there."""
    wrapped: bool = False
    """Whether one input's answer comes as a list of one."""

    def reply(self, answers: Sequence[Answer], parameters: Parameters, *, single: bool) -> Any:
        """The JSON document for one input, or for a list of them."""
        told = [self.tell(answer, parameters) for answer in answers]
        return told[0] if single and not self.wrapped else told

    def schema_single(self) -> Schema:
        """JSON Schema of the reply to one input."""
        return {"type": "array", "items": self.schema} if self.wrapped else self.schema


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _many(items: Schema) -> Schema:
    return {"type": "array", "items": items}


TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
WHOLE: Schema = {"type": "integer"}
SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
COUNT: Schema = {"type": "integer", "minimum": 1}
BOX = _object(xmin=WHOLE, ymin=WHOLE, xmax=WHOLE, ymax=WHOLE)


def _scores(answer: Answer, parameters: Parameters) -> Any:
    found = answer["scores"]
    return found[: parameters["top_k"]] if parameters.get("top_k") else found


def _entities(answer: Answer, parameters: Parameters) -> Any:
    ignored = set(parameters.get("ignore_labels") or ())
    return [entity for entity in answer["entities"] if entity["entity_group"] not in ignored]


def _objects(answer: Answer, parameters: Parameters) -> Any:
    return [item for item in answer["objects"] if item["score"] >= parameters.get("threshold", 0)]


def _segments(answer: Answer, parameters: Parameters) -> Any:
    return [item for item in answer["segments"] if item["score"] >= parameters.get("threshold", 0)]


def _text(answer: Answer, parameters: Parameters) -> Any:
    return {name: answer[name] for name in TEXTS if name in answer}


def _as_it_is(answer: Answer, parameters: Parameters) -> Any:
    return answer


def _applied(name: str) -> Mapping[str, Schema]:
    return {"top_k": COUNT, "function_to_apply": {"enum": [name]}}


LABELS = _many(_object(label=TEXT, score=NUMBER))
ENTITY = _object(entity_group=TEXT, score=NUMBER, word=TEXT, start=WHOLE, end=WHOLE)
_AGGREGATION = {"aggregation_strategy": {"enum": ["simple", "first"]}, "ignore_labels": _many(TEXT)}
_SEGMENT = _object(label=TEXT, score=NUMBER, mask={"type": "string", "description": "a PNG in base64, 255 where it is"})

_OBJECT = _object(label=TEXT, score=NUMBER, box=BOX)
_SEMANTIC = {"threshold": SHARE, "subtask": {"enum": ["semantic"]}}

ENTITIES = ApiForm("token-classification", _entities, _many(ENTITY), _AGGREGATION, ("entities",))
OBJECTS = ApiForm("object-detection", _objects, _many(_OBJECT), {"threshold": SHARE}, ("objects",))
SEGMENTS = ApiForm("image-segmentation", _segments, _many(_SEGMENT), _SEMANTIC, ("segments",))
OWN = ApiForm("own", _as_it_is, {"type": "object"}, {})


def form_of(task: Task) -> ApiForm:
    """The form of a task, by what its targets are: a task that joins needs no line here."""
    kinds = {task.input_columns()[name] for name in task.target_columns()}
    if "boxes" in kinds:
        return OBJECTS
    if "mask" in kinds:
        return SEGMENTS
    if "tags" in kinds:
        return ENTITIES
    if "texts" in kinds or not kinds & {"label", "labels", "number"}:
        return _writing(task)
    applied = "none" if "number" in kinds else "sigmoid" if "labels" in kinds else "softmax"
    name = "image-classification" if task.modality == "image" else "text-classification"
    return ApiForm(name, _scores, LABELS, _applied(applied), ("scores",), wrapped=task.modality == "text")


def _writing(task: Task) -> ApiForm:
    answer_key = str(getattr(task, "answer_key", "generated_text" if task.key() == "text-generation" else ""))
    if answer_key not in TEXTS:
        return OWN
    name = {"summary_text": "summarization", "translation_text": "translation"}.get(answer_key, "text-generation")
    return ApiForm(name, _text, _object(**{answer_key: TEXT}), {}, TEXTS, wrapped=True)


def form_for(form: ApiForm, answer: Answer) -> ApiForm:
    """The form that fits an answer: the task's, unless a task of the user's answers otherwise."""
    return form if any(name in answer for name in form.holds) else OWN


def parameters_of(form: ApiForm, task: Task, written: Any) -> dict[str, Any]:
    """What a client set, checked; whatever is null, false or empty is not set."""
    if written is None:
        return {}
    if not isinstance(written, Mapping):
        raise wrong(f"parameters is a {type(written).__name__}; allowed is an object")
    chosen = {str(name): value for name, value in written.items() if value not in (None, False, "", [], {})}
    for name, value in chosen.items():
        if name not in form.parameters:
            known = sorted(form.parameters)
            told = unknown("parameter", name, known) if known else f"Unknown parameter {name!r}. This task has none."
            raise wrong(f"{told} What a model does is set when it is trained")
        _checked(name, value, form.parameters[name])
    lowest = getattr(task, "threshold", None)
    if form is OBJECTS and lowest is not None and chosen.get("threshold", 1) < lowest:
        raise wrong(f"threshold {chosen['threshold']:g} is asked; this model tells of what it finds from {lowest:g} on")
    return chosen


def _checked(name: str, value: Any, schema: Schema) -> None:
    number = not isinstance(value, bool) and isinstance(value, int | float)
    if "enum" in schema:
        good = value in schema["enum"]
        allowed = ", ".join(map(repr, schema["enum"]))
    elif schema["type"] == "array":
        good, allowed = isinstance(value, list) and all(isinstance(item, str) for item in value), "a list of texts"
    elif schema["type"] == "integer":
        good, allowed = number and isinstance(value, int) and value >= 1, "a whole number from 1 on"
    else:
        good, allowed = number and 0 <= value <= 1, "a number from 0 to 1"
    if not good:
        raise wrong(f"parameters.{name} is {str(value)[:80]!r}; allowed is {allowed}")
