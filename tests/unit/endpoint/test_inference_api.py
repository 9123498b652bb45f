"""The client of the Hugging Face Inference API reads every task's answers, which equal the model's own."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
import soundfile
from huggingface_hub import InferenceClient
from PIL import Image

from regraft.contracts import MadeUp, Task, column_of
from regraft.endpoint.inference_api import form_for
from regraft.endpoint.model_info import example_of
from regraft.endpoint.openapi import input_schema
from regraft.serving.engine.dummy_rows import close
from unit.endpoint.model_store import FAMILY, Endpoint, ModelStore
from unit.every.rows import TEXTS, picture, task_of

PICTURES = [picture(number) for number in range(3)]
SOUNDS = [column_of("audio").made_up(MadeUp(number, ("a",))) for number in range(3)]


@pytest.fixture(scope="module")
def every(model_store: ModelStore, endpoint: Endpoint) -> Endpoint:
    return model_store.serve(FAMILY, endpoint)


def client(every: Endpoint, model: str) -> InferenceClient:
    return InferenceClient(model=f"{every.url}/models/{model}", token="none")


def same(found: Any, wanted: Any) -> None:
    """Return whether two values are equal up to rounding."""
    if isinstance(wanted, dict):
        assert found.keys() >= {key for key, value in wanted.items() if value is not None}
        for key, value in wanted.items():
            if value is not None:
                same(found[key], value)
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            same(one, other)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, abs=1e-5)
    else:
        assert close(found, wanted, 0)


def test_there_is_a_model_of_every_task() -> None:
    assert set(FAMILY) == set(Task.names())


@pytest.mark.parametrize("task", ["text-classification", "text-multi-label", "text-regression"])
def test_a_text_s_scores(task: str, every: Endpoint, model_store: ModelStore) -> None:
    found = client(every, task).text_classification(TEXTS[0])
    same(
        [{"label": item.label, "score": item.score} for item in found],
        model_store.predict(task, [TEXTS[0]])[0]["scores"],
    )


@pytest.mark.parametrize("task", ["image-classification", "image-multi-label", "image-regression"])
def test_a_picture_s_scores(task: str, every: Endpoint, model_store: ModelStore) -> None:
    wanted = model_store.predict(task, [PICTURES[0]])[0]["scores"]
    found = client(every, task).image_classification(PICTURES[0])
    same([{"label": item.label, "score": item.score} for item in found], wanted)
    assert len(client(every, task).image_classification(PICTURES[0], top_k=1)) == 1, "in JSON and base64"


def test_a_sound_s_scores(every: Endpoint, model_store: ModelStore) -> None:
    wanted = model_store.predict("audio-classification", [SOUNDS[0]])[0]["scores"]
    found = client(every, "audio-classification").audio_classification(SOUNDS[0])
    same([{"label": item.label, "score": item.score} for item in found], wanted)
    coded = every.ask("/models/audio-classification", {"inputs": base64.b64encode(SOUNDS[0]).decode()})
    same(coded.document, wanted)
    samples, rate = soundfile.read(io.BytesIO(SOUNDS[0]), dtype="int16")
    soundfile.write(flac := io.BytesIO(), samples, rate, format="FLAC")
    packed = [
        {"label": item.label, "score": item.score}
        for item in client(every, "audio-classification").audio_classification(flac.getvalue())
    ]
    same(packed, wanted)
    assert len(client(every, "audio-classification").audio_classification(SOUNDS[0], top_k=1)) == 1


def test_candidates_are_some_of_the_labels(every: Endpoint, model_store: ModelStore) -> None:
    task = "zero-shot-image-classification"
    wanted = model_store.predict(task, [PICTURES[0]])[0]["scores"][:2]
    labels = [item["label"] for item in wanted]
    found = client(every, task).zero_shot_image_classification(PICTURES[0], candidate_labels=labels)
    whole = sum(item["score"] for item in wanted)
    same([{"label": item.label, "score": item.score * whole} for item in found], wanted)
    inputs, unknown = base64.b64encode(PICTURES[0]).decode(), {"candidate_labels": ["a cat"]}
    reply = every.ask(f"/models/{task}", {"inputs": inputs, "parameters": unknown})
    assert reply.status == 422 and "names 'a cat'; this model has the labels" in reply.document["error"]


def test_entities(every: Endpoint, model_store: ModelStore) -> None:
    for text in TEXTS:
        found = client(every, "token-classification").token_classification(text)
        same([dict(item) for item in found], model_store.predict("token-classification", [text])[0]["entities"])


def test_an_answer_with_its_place(every: Endpoint, model_store: ModelStore) -> None:
    asked = {"question": TEXTS[0], "context": TEXTS[2]}
    found: Any = client(every, "question-answering").question_answering(**asked)
    (wanted,) = model_store.predict("question-answering", [asked])
    same({name: found[name] for name in wanted}, wanted)
    assert asked["context"][found.start : found.end] == found.answer


def test_objects(every: Endpoint, model_store: ModelStore) -> None:
    wanted = model_store.predict("object-detection", [PICTURES[1]])[0]["objects"]
    found = client(every, "object-detection").object_detection(PICTURES[1])
    assert found
    same([{"label": item.label, "score": item.score, "box": dict(item.box)} for item in found], wanted)
    few = client(every, "object-detection").object_detection(PICTURES[1], threshold=wanted[1]["score"] + 1e-6)
    assert len(few) < len(wanted)


def test_segments(every: Endpoint, model_store: ModelStore) -> None:
    wanted = model_store.predict("semantic-segmentation", [PICTURES[2]])[0]["segments"]
    found = client(every, "semantic-segmentation").image_segmentation(PICTURES[2])
    assert [item.label for item in found] == [item["label"] for item in wanted]
    for item, other in zip(found, wanted, strict=True):
        mask = Image.open(io.BytesIO(base64.b64decode(other["mask"])))
        assert isinstance(item.mask, Image.Image)
        assert (np.asarray(item.mask) == np.asarray(mask)).all()


def test_vectors_and_similarities(every: Endpoint, model_store: ModelStore) -> None:
    wanted = [answer["embedding"] for answer in model_store.predict("embeddings", list(TEXTS))]
    asked = client(every, "embeddings")
    np.testing.assert_allclose(asked.feature_extraction(TEXTS[0], normalize=True, truncate=True), wanted[0], atol=1e-5)
    np.testing.assert_allclose(asked.feature_extraction(list(TEXTS)), wanted, atol=1e-5)
    cosines = [sum(a * b for a, b in zip(wanted[0], other, strict=True)) for other in wanted[1:]]
    np.testing.assert_allclose(asked.sentence_similarity(TEXTS[0], list(TEXTS[1:])), cosines, atol=1e-5)
    mixed = [TEXTS[1], {"source_sentence": TEXTS[0], "sentences": [TEXTS[1]]}, {"text": TEXTS[2]}]
    reply = every.ask("/models/embeddings", {"inputs": mixed})
    same(reply.document, [wanted[1], [pytest.approx(cosines[0], abs=1e-5)], wanted[2]])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"inputs": {"source_sentence": "a", "sentences": []}}, "input 0 has not the form"),
        ({"inputs": {"source_sentence": "a"}}, "input 0 has not the form"),
        ({"inputs": {"source_sentence": 7, "sentences": ["b"]}}, "input 0: text is a number"),
        ({"inputs": {"source_sentence": "a", "sentences": [" "]}}, "text is empty"),
        ({"inputs": "a", "dimensions": 8}, "Unknown key 'dimensions'"),
        ({"inputs": "a", "prompt_name": "query"}, "Unknown key 'prompt_name'"),
    ],
)
def test_sentences_that_cannot_be_compared_are_refused(body: Any, message: str, every: Endpoint) -> None:
    reply = every.ask("/models/embeddings", body)
    assert reply.status == 422 and message in reply.document["error"], reply.document


def test_what_is_written(every: Endpoint, model_store: ModelStore) -> None:
    wanted = {
        task: model_store.predict(task, [TEXTS[0]])[0] for task in ("summarization", "translation", "text-generation")
    }
    assert (
        client(every, "summarization").summarization(TEXTS[0]).summary_text == wanted["summarization"]["summary_text"]
    )
    assert (
        client(every, "translation").translation(TEXTS[0]).translation_text == wanted["translation"]["translation_text"]
    )
    written = client(every, "text-generation").text_generation(TEXTS[0])
    assert written == wanted["text-generation"]["generated_text"]


@pytest.mark.parametrize("task", ["text-pair-classification", "text-pair-regression"])
def test_two_texts_come_as_an_object(task: str, every: Endpoint, model_store: ModelStore) -> None:
    wanted = model_store.predict(task, [{"text": TEXTS[0], "pair": TEXTS[1]}])[0]["scores"]
    for second in ("pair", "text_pair"):
        reply = every.ask(f"/models/{task}", {"inputs": {"text": TEXTS[0], second: TEXTS[1]}})
        assert reply.status == 200
        same(reply.document, [wanted])


@pytest.mark.parametrize("task", sorted(FAMILY))
def test_a_list_of_inputs_gets_as_many_answers_each_as_if_it_came_alone(task: str, every: Endpoint) -> None:
    kinds = {
        name: kind for name, kind in task_of(task).input_columns().items() if name not in task_of(task).target_columns()
    }
    values: dict[str, list[Any]] = {
        "audio": [base64.b64encode(item).decode() for item in SOUNDS],
        "image": [base64.b64encode(item).decode() for item in PICTURES],
        "text": list(TEXTS),
        "words": list(TEXTS),
    }
    columns = {name: values[kind] for name, kind in kinds.items()}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    items = [next(iter(row.values())) if len(row) == 1 else row for row in rows]
    together = every.ask(f"/models/{task}", {"inputs": items})
    assert together.status == 200, together.body
    assert len(together.document) == 3
    for item, row, answer in zip(items, rows, together.document, strict=True):
        for written in (item, row):
            alone = every.ask(f"/models/{task}", {"inputs": written})
            same(alone.document, [answer] if task_of(task).api_form().wrapped else answer)
        same(every.ask(f"/models/{task}", {"inputs": [item]}).document, [answer])


def test_a_conversation_is_one_input_and_a_text_is_what_its_user_says() -> None:
    from regraft.endpoint.request_body import parse_request
    from regraft.spec.serve import LimitSpec

    chat = Task.parse({"type": "text-generation", "form": "chat"})
    assert isinstance(chat, Task)
    conversation = [{"role": "user", "content": "w5 w6"}]
    for inputs, count in ((conversation, 1), ("w5 w6", 1), ([conversation, "w5 w6"], 2)):
        import json

        question = parse_request(json.dumps({"inputs": inputs}).encode(), "", chat, LimitSpec())
        assert (len(question.rows), question.single) == (count, count == 1)
        assert all(row["messages"] == conversation for row in question.rows)


@pytest.mark.parametrize("task", sorted(FAMILY))
def test_every_example_is_answered_and_shown_with_its_schema(task: str, every: Endpoint) -> None:
    import jsonschema

    shown = every.get(f"/models/{task}").document
    assert shown["task"] == task
    assert every.ask(f"/models/{task}", shown["example"]).status == 200
    api = every.get("/openapi.json").document
    post = api["paths"][f"/models/{task}"]["post"]
    schemas = {"$defs": api["components"]["schemas"]}

    def valid(value: Any, content: Any) -> None:
        name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
        jsonschema.validate(value, {**schemas, **schemas["$defs"][name]})

    valid(shown["example"], post["requestBody"]["content"])
    valid(every.ask(f"/models/{task}", shown["example"]).document, post["responses"]["200"]["content"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(7, input_schema(task_of(task)))
    jsonschema.validate(example_of(task_of(task)), input_schema(task_of(task)))


def test_a_task_that_answers_in_its_own_way_is_answered_with_its_own_answers() -> None:
    form = task_of("text-classification").api_form()
    assert form_for(form, {"verdict": "odd"}).name == "own"
    assert form_for(form, {"verdict": "odd"}).reply([{"verdict": "odd"}], {}, single=True) == {"verdict": "odd"}


@pytest.mark.parametrize(
    "task, parameters, message",
    [
        ("text-classification", {"top_q": 1}, "Did you mean 'top_k'?"),
        ("text-classification", {"top_k": 0.5}, "a whole number from 1 on"),
        ("text-classification", {"function_to_apply": "sigmoid"}, "'softmax'"),
        ("summarization", {"temperature": 2}, "This task has none"),
        ("object-detection", {"threshold": 2}, "a number from 0 to 1"),
    ],
)
def test_what_cannot_be_honoured_is_refused(task: str, parameters: Any, message: str, every: Endpoint) -> None:
    inputs = base64.b64encode(PICTURES[0]).decode() if task == "object-detection" else TEXTS[0]
    reply = every.ask(f"/models/{task}", {"inputs": inputs, "parameters": parameters})
    assert reply.status == 422
    assert message in reply.document["error"]
