"""ApiForm: how answers of a task look in the Hugging Face Inference API, with the forms that its clients read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from regraft.contracts.rows import Answer
from regraft.errors import RequestError

Parameters = Mapping[str, Any]
Schema = dict[str, Any]
View = Literal["scores", "entities", "boxes", "masks", "heat", "depth", "text", "span", "json"]
"""How the endpoint's page draws an answer: bars of scores, marked text, boxes, masks or heat on the image, a depth map,
a text, a piece that is marked in the last input, JSON."""

_SUMS_TO_1 = 1e-4
"""Deviation from 1 of scores that share a softmax."""
TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
NUMBER_OR_NULL: Schema = {"type": ["number", "null"]}
WHOLE: Schema = {"type": "integer"}
SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
COUNT: Schema = {"type": "integer", "minimum": 1}


@dataclass(frozen=True)
class SeveralRows:
    """An input that stands for several rows, whose answers make one reply."""

    split: Callable[[Any], list[Any] | None]
    """Returns the rows' inputs; None for an input that is one row. ValueError for one that is neither."""
    join: Callable[[Sequence[Answer]], Any]
    """Turns the rows' answers into the input's answer."""
    request: Schema
    """JSON Schema of such an input."""
    reply: Schema
    """JSON Schema of its answer."""


@dataclass(frozen=True)
class ApiForm:
    """The form of a request's parameters and of the reply."""

    name: str
    """The task as the Inference API calls it; with underscores it is the client's method."""
    render: Callable[[Answer, Parameters], Any]
    """Turns an answer of the task into one input's answer."""
    schema: Schema
    """JSON Schema of one input's answer."""
    parameters: Mapping[str, Schema] = field(default_factory=dict)
    """The parameters that a request may set, with their schemas."""
    lowest: Mapping[str, float] = field(default_factory=dict)
    """The lowest value of a parameter that this model can serve, where its fields set one."""
    holds: tuple[str, ...] = ()
    """Keys of an answer; the form fits an answer that has one of them."""
    wrapped: bool = False
    """Whether one input's answer comes as a list of one."""
    view: View = "json"
    """How the endpoint's page draws an answer."""
    client: bool = True
    """Whether `huggingface_hub.InferenceClient` has a method of that name."""
    several: SeveralRows | None = None
    """The form of inputs that stand for several rows, where there is one."""
    at_root: bool = False
    """Whether clients write parameters beside `inputs`, not in `parameters`."""

    def reply(
        self, answers: Sequence[Answer], parameters: Parameters, *, single: bool, counts: Sequence[int | None] = ()
    ) -> Any:
        """Return the JSON document for one input, or for a list of them.

        `counts` are the rows of each input, None for one that is a row by itself; left out where all are.
        """
        rest, rendered = iter(answers), list[Any]()
        for count in counts or [None] * len(answers):
            if count is None or self.several is None:
                rendered.append(self.render(next(rest), parameters))
            else:
                rendered.append(self.several.join([next(rest) for _ in range(count)]))
        return rendered[0] if single and not self.wrapped else rendered

    def schema_single(self) -> Schema:
        """Return the JSON Schema of the reply to one input."""
        return {"type": "array", "items": self.schema} if self.wrapped else self.schema


def json_object(**properties: Schema) -> Schema:
    """Return the schema of an object whose properties are all required."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def json_list(items: Schema) -> Schema:
    """Return the schema of a list."""
    return {"type": "array", "items": items}


def scores_form(medium: str, applied: str, *, wrapped: bool) -> ApiForm:
    """Return the form of a classifier of that medium, whose answers have `scores`: labels with numbers.

    `applied` is the function that the model applies to its logits: softmax, sigmoid, or none.
    """
    return ApiForm(
        name=f"{medium}-classification",
        render=_scores,
        schema=json_list(json_object(label=TEXT, score=NUMBER)),
        parameters={"top_k": COUNT, "function_to_apply": {"enum": [applied]}},
        holds=("scores",),
        wrapped=wrapped,
        view="scores",
    )


def candidates_form(templates: Sequence[str]) -> ApiForm:
    """Return the form of a classifier whose client names the labels to choose from, `candidate_labels`.

    The labels are those of the model, and so are the templates. Answers have `scores`; by a softmax, those of the
    candidates alone sum to 1.
    """
    return ApiForm(
        name="zero-shot-image-classification",
        render=_candidates,
        schema=json_list(json_object(label=TEXT, score=NUMBER)),
        parameters={"candidate_labels": json_list(TEXT), "hypothesis_template": {"enum": list(templates)}},
        holds=("scores",),
        view="scores",
        client=False,  # the client's method needs candidates, which the page does not ask for
    )


def entities_form() -> ApiForm:
    """Return the form of answers that have `entities`: spans of a text."""
    entity = json_object(entity_group=TEXT, score=NUMBER, word=TEXT, start=WHOLE, end=WHOLE)
    return ApiForm(
        name="token-classification",
        render=_entities,
        schema=json_list(entity),
        parameters={"aggregation_strategy": {"enum": ["simple", "first"]}, "ignore_labels": json_list(TEXT)},
        holds=("entities",),
        view="entities",
    )


def objects_form(lowest: float) -> ApiForm:
    """Return the form of answers that have `objects`: boxes on an image, of scores from `lowest` on."""
    box = json_object(xmin=WHOLE, ymin=WHOLE, xmax=WHOLE, ymax=WHOLE)
    return ApiForm(
        name="object-detection",
        render=_above_threshold("objects"),
        schema=json_list(json_object(label=TEXT, score=NUMBER, box=box)),
        parameters={"threshold": SHARE},
        lowest={"threshold": lowest},
        holds=("objects",),
        view="boxes",
    )


def segments_form() -> ApiForm:
    """Return the form of answers that have `segments`: masks of an image."""
    mask = {"type": "string", "description": "a PNG in base64, 255 where it is"}
    return ApiForm(
        name="image-segmentation",
        render=_above_threshold("segments"),
        schema=json_list(json_object(label=TEXT, score=NUMBER, mask=mask)),
        parameters={"threshold": SHARE, "subtask": {"enum": ["semantic"]}},
        holds=("segments",),
        view="masks",
    )


def depth_form() -> ApiForm:
    """Return the form of answers that have a depth map and its range."""
    depth = {"type": "string", "description": "a PNG of 16 bits in base64, in the size of the image"}
    limits = {**json_list(NUMBER), "description": "the depth at black and at white", "minItems": 2, "maxItems": 2}
    kind: Schema = {"enum": ["metric", "relative"]}
    return ApiForm(
        name="depth-estimation",
        render=lambda answer, parameters: answer,
        schema=json_object(depth=depth, range=limits, kind=kind),
        holds=("depth",),
        view="depth",
        client=False,
    )


def text_form(name: str, key: str) -> ApiForm:
    """Return the form of answers that have one text under `key`, such as `summary_text`."""
    return ApiForm(
        name=name,
        render=lambda answer, parameters: {key: answer[key]},
        schema=json_object(**{key: TEXT}),
        holds=(key,),
        wrapped=True,
        view="text",
    )


def answer_form() -> ApiForm:
    """Return the form of answers that are a piece of a text: `answer`, empty for none, with its place."""
    return ApiForm(
        name="question-answering",
        render=lambda answer, parameters: answer,
        schema=json_object(answer=TEXT, score=SHARE, start=WHOLE, end=WHOLE),
        parameters={"top_k": {**COUNT, "maximum": 1}},
        holds=("answer",),
        view="span",
    )


def fill_mask_form(most: int) -> ApiForm:
    """Return the form of answers that have `candidates`: for each mask of a text at most `most` candidates.

    A text with one mask gets a list of candidates, and one with several a list for each.
    """
    candidate = json_object(score=NUMBER, token=WHOLE, token_str=TEXT, sequence=TEXT)
    return ApiForm(
        name="fill-mask",
        render=_filled,
        schema=json_list({"anyOf": [candidate, json_list(candidate)]}),
        parameters={"top_k": {**COUNT, "maximum": most}},
        holds=("candidates",),
    )


def anomaly_form() -> ApiForm:
    """Return the form of answers that have a `heat_map`: scores of an image against usual ones."""
    heat = {"type": "string", "description": "a PNG in base64 of the image's size: 128 at the threshold"}
    return ApiForm(
        name="anomaly-detection",
        render=lambda answer, parameters: answer,
        schema=json_object(
            score=NUMBER, p_value=SHARE, is_anomaly={"type": "boolean"}, threshold=NUMBER_OR_NULL, heat_map=heat
        ),
        holds=("heat_map",),
        view="heat",
        client=False,
    )


def embedding_form(sizes: Sequence[int]) -> ApiForm:
    """Return the form of answers that have an `embedding`; `sizes` are the shorter ones that it can be cut to.

    An input of a sentence and others gets the cosine of each with it (sentence-similarity).
    """
    similarity: Schema = {
        **json_object(source_sentence=TEXT, sentences={**json_list(TEXT), "minItems": 1}),
        "additionalProperties": False,
    }
    return ApiForm(
        name="feature-extraction",
        render=_vector,
        schema=json_list(NUMBER),
        parameters={
            "normalize": {"enum": [True]},
            "truncate": {"enum": [True]},
            "truncation_direction": {"enum": ["right", "Right"]},
            **({"dimensions": {"enum": list(sizes)}} if sizes else {}),
        },
        holds=("embedding",),
        several=SeveralRows(_sentences, _similarities, similarity, json_list(NUMBER)),
        at_root=True,
    )


def picture_vector_form(sizes: Sequence[int]) -> ApiForm:
    """Return the form of answers that have an `embedding` of a picture; see `embedding_form`."""
    found = embedding_form(sizes)
    kept = {name: schema for name, schema in found.parameters.items() if name == "dimensions"}
    return replace(found, name="image-feature-extraction", parameters=kept, several=None, client=False)


def own_form() -> ApiForm:
    """Return the form of a task that the Inference API does not know: its answers as they are."""
    return ApiForm(name="own", render=lambda answer, parameters: answer, schema={"type": "object"}, client=False)


def _scores(answer: Answer, parameters: Parameters) -> Any:
    found = answer["scores"]
    return found[: parameters["top_k"]] if parameters.get("top_k") else found


def _candidates(answer: Answer, parameters: Parameters) -> Any:
    found, wanted = answer["scores"], parameters.get("candidate_labels")
    if wanted is None:
        return found
    known = [item["label"] for item in found]
    if unknown := [label for label in wanted if label not in known]:
        raise RequestError(
            f"candidate_labels names {unknown[0][:80]!r}; this model has the labels {', '.join(sorted(known))}: ask "
            "for some of these, or leave candidate_labels out"
        )
    chosen = [item for item in found if item["label"] in wanted]
    whole = sum(item["score"] for item in found)
    alone = abs(whole - 1) > _SUMS_TO_1 or not (total := sum(item["score"] for item in chosen))
    return chosen if alone else [{**item, "score": item["score"] / total} for item in chosen]


def _filled(answer: Answer, parameters: Parameters) -> Any:
    masks = [mask[: parameters["top_k"]] if parameters.get("top_k") else mask for mask in answer["candidates"]]
    return masks[0] if len(masks) == 1 else masks


def _vector(answer: Answer, parameters: Parameters) -> list[float]:
    found: list[float] = answer["embedding"]
    if not parameters.get("dimensions"):
        return found
    cut = found[: parameters["dimensions"]]
    length = math.sqrt(sum(value * value for value in cut)) or 1.0
    return [value / length for value in cut]


def _sentences(given: Any) -> list[Any] | None:
    """Return the sentences that are compared, the first with the others."""
    if not isinstance(given, Mapping) or not {"source_sentence", "sentences"} & given.keys():
        return None
    others = given.get("sentences")
    if given.keys() != {"source_sentence", "sentences"} or not isinstance(others, list) or not others:
        raise ValueError('has not the form {"source_sentence": TEXT, "sentences": [TEXT, ...]}')
    return [given["source_sentence"], *others]


def _similarities(answers: Sequence[Answer]) -> list[float]:
    """Return the cosine of the first vector with each of the others; all have the length 1."""
    first, *others = (answer["embedding"] for answer in answers)
    return [math.fsum(one * two for one, two in zip(first, other, strict=True)) for other in others]


def _entities(answer: Answer, parameters: Parameters) -> Any:
    ignored = set(parameters.get("ignore_labels") or ())
    return [entity for entity in answer["entities"] if entity["entity_group"] not in ignored]


def _above_threshold(key: str) -> Callable[[Answer, Parameters], Any]:
    def render(answer: Answer, parameters: Parameters) -> Any:
        return [item for item in answer[key] if item["score"] >= parameters.get("threshold", 0)]

    return render
