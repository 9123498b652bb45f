"""Question answering: windows, the best piece of all of them, SQuAD's rules, and answers that are not where they are
said to be."""

from __future__ import annotations

import json
import math
import random
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import normalizers

from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.adapted import Adapted
from regraft.bases.locate import locate
from regraft.contracts import Batch, Context, windows, windows_of
from regraft.data import row_sample
from regraft.data.ingest import ingest
from regraft.data.rows import Rows, RowWriter
from regraft.errors import DataError, Unsupported
from regraft.evaluation.evaluate import evaluate
from regraft.evaluation.options import EvaluationOptions
from regraft.methods.full import Full
from regraft.serving.engine.engine import Engine, RowRequest
from regraft.serving.predictor import Predictor
from regraft.spec.run import RunSpec
from regraft.spec.sections import DataSpec
from regraft.store.objects import open_store
from regraft.tasks.metrics.answers import answer_findings, exact_match, overlap_f1
from regraft.tasks.question_answering import QuestionAnswering
from regraft.training.session import train_local
from support.readers import tiny_reader, tokenizer_of_pairs
from unit.serving import tiny

WORDS = [f"w{number}" for number in range(40)]
LENGTH, STRIDE, MOST = 24, 6, 5
QUESTIONS = Path(__file__).with_name("questions_on_docs.json")
FOUND = 0.95
"""F1 that a model reaches on the questions that it was trained on."""


def rows_of(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Return questions on texts of 1 to 90 words, so of 1 to 7 windows, with blanks and marks between words."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        words = [draw.choice(WORDS) for _ in range(1 + (number * 37) % 90)]
        text = "".join(word + draw.choice((" ", "  ", ", ", ". ", "\n")) for word in words)
        rows.append({"question": " ".join(draw.choices(WORDS, k=draw.randint(1, 6))) + "?", "context": text})
    return rows


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_reader(tmp_path_factory.mktemp("reader"), [*WORDS, ",.?"], length=LENGTH, std=0.6)


def adapted_on(reader: Path, **fields: Any) -> Adapted:
    task = QuestionAnswering(max_answer_length=MOST, stride=STRIDE, **fields)
    made = adapt(locate(str(reader)), Adaptation(task=task, method=Full(), labels=(), seed=3))
    made.eval_mode()
    return made


def answered(made: Adapted, rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    examples = [made.task.encode({**row, "row": 0}, made.context, train=False) for row in rows]
    batch = made.task.collate(examples, made.context)
    with torch.no_grad():
        return made.task.answers(made.forward(batch), batch, made.context)


def searched(made: Adapted, row: dict[str, str], *, none: bool) -> dict[str, Any]:
    """Return the answer by a search over all pieces of all windows, each window read alone."""
    tokenizer, model = made.context.processor, made.model
    question = tokenizer(row["question"], add_special_tokens=False)["input_ids"]
    text = tokenizer(row["context"], add_special_tokens=False, return_offsets_mapping=True)
    ids, places = text["input_ids"], text["offset_mapping"]
    free = LENGTH - 3 - len(question)
    step = free - min(STRIDE, free // 2)
    begins = [0]
    while begins[-1] + free < len(ids):
        begins.append(begins[-1] + step)
    pieces: dict[tuple[int, int], float] = defaultdict(float)
    nothing = math.inf
    for begin in begins:
        part = ids[begin : begin + free]
        read = [2, *question, 3, *part, 3]
        types = [0] * (len(question) + 2) + [1] * (len(part) + 1)
        with torch.no_grad():
            output = model(input_ids=torch.tensor([read]), token_type_ids=torch.tensor([types]))
        first = len(question) + 2
        allowed = [0, *range(first, first + len(part))]
        starts, ends = (
            dict(zip(allowed, values[0, allowed].double().softmax(-1).tolist(), strict=True))
            for values in (output.start_logits, output.end_logits)
        )
        nothing = min(nothing, starts[0] * ends[0])
        for one in range(len(part)):
            for other in range(one, min(one + MOST, len(part))):
                piece = places[begin + one][0], places[begin + other][1]
                pieces[piece] += starts[first + one] * ends[first + other]
    total = sum(pieces.values()) + (nothing if none else 0.0)
    (start, end), best = max(pieces.items(), key=lambda item: item[1])
    if none and nothing > best:
        return {"answer": "", "score": nothing / total, "start": 0, "end": 0}
    return {"answer": row["context"][start:end], "score": best / total, "start": start, "end": end}


@pytest.mark.parametrize("none", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_answer_is_that_of_a_search_over_all_pieces_of_all_windows(reader: Path, none: bool) -> None:
    made, rows = adapted_on(reader, no_answer=none), rows_of(50)
    found = answered(made, rows)
    counts = [len(windows_of(made.task.encode(row, made.context, train=False))) for row in rows]
    assert max(counts) >= 5 and counts.count(1) >= 3
    for row, answer in zip(rows, found, strict=True):
        wanted = searched(made, row, none=none)
        assert answer == {**wanted, "score": pytest.approx(wanted["score"], abs=1e-4)}
    assert not none or 0 < sum(not answer["answer"] for answer in found) < 50


def test_the_threshold_decides_between_the_best_piece_and_no_answer(reader: Path) -> None:
    rows = rows_of(12)
    always, never = (answered(adapted_on(reader, no_answer=True, null_threshold=at), rows) for at in (1e6, -1e6))
    assert all(answer["answer"] and 0 < answer["score"] < 1 for answer in always)
    assert all((one["answer"], one["start"], one["end"]) == ("", 0, 0) and 0 < one["score"] < 1 for one in never)


def test_no_answer_is_decided_by_all_training_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_sample, "MOST_ROWS", 3)
    found = {}
    for name, last in (("some", []), ("all", [{"text": "a", "start": 0}])):
        path, task = tmp_path / f"{name}.arrow", QuestionAnswering()
        with RowWriter(path, task.stored_columns()) as writer:
            for number in range(30):
                answers = last if number == 29 else [{"text": "a", "start": 0}]
                writer.add({"question": "q", "context": "a", "answers": answers}, 2)
        rows = Rows(path, task.stored_columns())
        assert 29 not in row_sample.sample(rows)
        found[name] = row_sample.fit_to_data(task, rows)
        assert row_sample.fit_to_data(QuestionAnswering(no_answer=False), rows).no_answer is False
    assert (found["some"].no_answer, found["all"].no_answer) == (True, False)


def test_answers_alone_are_those_of_a_batch_also_from_an_engine(
    reader: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    store = tmp_path / "store"
    task = QuestionAnswering(stride=STRIDE)
    for number, method in enumerate(("feature-extraction", "full")):
        tiny.publish(store, reader, task, method, f"m{number}", seed=number)
    rows = rows_of(14, seed=1)
    engine = Engine(str(store), device="cpu")
    asked = [(name, row) for row in rows for name in ("m0", "m1")]
    mixed = engine.answer([engine.encode(RowRequest(name, "v1", row)) for name, row in asked])
    for name in ("m0", "m1"):
        model = Predictor.open(str(store), name, device="cpu")
        together = model.predict(rows)
        served = [answer for (other, _), answer in zip(asked, mixed, strict=True) if other == name]
        for row, answer, other in zip(rows, together, served, strict=True):
            (alone,) = model.predict([row])
            assert alone == {**answer, "score": pytest.approx(answer["score"], abs=1e-5)}
            assert other == {**answer, "score": pytest.approx(answer["score"], abs=1e-5)}


def test_very_many_windows_take_several_passes_and_give_the_same_answers(
    reader: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, rows = adapted_on(reader), rows_of(9)
    wanted, passes = answered(made, rows), []
    monkeypatch.setattr(windows, "MOST_AT_ONCE", 4)
    examples = [made.task.encode({**row, "row": 0}, made.context, train=False) for row in rows]
    batch = made.task.collate(examples, made.context)

    def counted(part: Batch) -> Any:
        passes.append(len(part["input_ids"]))
        return made.forward(part)

    with torch.no_grad():
        output = made.task.predict_forward(counted, made.model, batch, made.context)
    found = made.task.answers(output, batch, made.context)
    assert len(passes) > 3 and max(passes) == 4
    assert found == [{**one, "score": pytest.approx(one["score"], abs=1e-5)} for one in wanted]


def test_a_long_question_is_cut_and_every_token_of_the_text_is_in_a_window(reader: Path) -> None:
    made = adapted_on(reader)
    (row,) = rows_of(1)
    row = {"question": " ".join(WORDS * 3), "context": " ".join(WORDS)}
    parts = windows_of(made.task.encode(row, made.context, train=False))
    assert all(len(window["input_ids"]) <= LENGTH for window in parts) and len(parts) > 2
    seen = {tuple(place) for window in parts for place in window["labels"]["offsets"].tolist()}
    assert seen == {
        tuple(place)
        for place in made.context.processor(row["context"], add_special_tokens=False, return_offsets_mapping=True)[
            "offset_mapping"
        ]
    }


def test_the_target_is_the_answer_in_windows_that_hold_it_and_none_in_others(reader: Path) -> None:
    made = adapted_on(reader)
    text = " ".join(WORDS)
    start = text.index("w30 ")
    row = {"question": "w1?", "context": text, "answers": [{"text": "w30 w31", "start": start}]}
    parts = windows_of(made.task.encode(row, made.context, train=True))
    holding = 0
    for window in parts:
        first, last = window["labels"]["targets"].tolist()
        if (first, last) != (0, 0):
            holding += 1
            tokens = made.context.processor.convert_ids_to_tokens(window["input_ids"][first : last + 1])
            assert tokens == ["w30", "w31"]
    assert 0 < holding < len(parts)
    empty = windows_of(made.task.encode({**row, "answers": []}, made.context, train=True))
    assert all(window["labels"]["targets"].tolist() == [0, 0] for window in empty)


def test_an_answer_whose_last_accent_is_dropped_is_learnt_as_an_answer(reader: Path) -> None:
    made = adapted_on(reader)
    made.context.processor.backend_tokenizer.normalizer = normalizers.BertNormalizer()
    row = {"question": "w1?", "context": "w1 w30\u0300", "answers": [{"text": "w30\u0300", "start": 3}]}
    (window,) = windows_of(made.task.encode(row, made.context, train=True))
    first, last = window["labels"]["targets"].tolist()
    assert made.context.processor.convert_ids_to_tokens(window["input_ids"][first : last + 1]) == ["w30"]


def test_parts_of_an_answer_that_no_window_holds_count_for_no_loss_and_are_counted(reader: Path) -> None:
    made = adapted_on(reader)
    text = " ".join(WORDS)
    start, stop = text.index("w4 "), text.index("w37")
    row = {"row": 0, "question": "w1?", "context": text, "answers": [{"text": text[start : stop - 1], "start": start}]}
    batch = made.task.collate([made.task.encode(row, made.context, train=True)], made.context)
    targets = [tuple(window["targets"].tolist()) for window in batch["labels"][0]]
    assert (-1, -1) in targets and set(targets) <= {(-1, -1), (0, 0)}
    with torch.no_grad():
        output = made.forward(batch)
    loss, weight = made.task.loss(output, batch, made.context)
    assert weight.item() == targets.count((0, 0)) and math.isfinite(loss.item())
    (record,) = made.task.records(output, batch, made.context)
    assert record["windows"] == len(targets) and record["loss"] == pytest.approx(loss.item())
    assert math.isfinite(made.task.metrics([record], made.context)["loss"])
    notes = [row_sample._cut_text(one, 1, "training") for one in made.task.text_lengths([row], made.context)]
    assert notes[1] == (
        "1 of 1 training rows has an answer of more than 5 tokens, which is never predicted: raise "
        "task.max_answer_length"
    )
    assert notes[2].startswith("1 of 1 training rows has an answer of more than 5 tokens, which no window holds whole")
    short = {**row, "answers": [{"text": "w30", "start": text.index("w30")}]}
    lengths = made.task.text_lengths([short, {**row, "answers": []}], made.context)
    assert not any(row_sample._cut_text(one, 2, "training") for one in lengths)


def test_the_code_of_an_export_finds_the_best_piece_of_the_text(
    reader: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    processor = adapted_on(reader).context.processor
    # [CLS] w1 ? [SEP] w2 w3 w4 [SEP]: best in the question, and best ends before best starts.
    starts = torch.tensor([[9.0, 9, 9, 9, 2, 2, 5, 9]])
    ends = torch.tensor([[9.0, 9, 9, 9, 5, 4, 0, 9]])
    code = QuestionAnswering.export_code.replace("EXAMPLES", repr(("w1?", "w2 w3 w4")))
    output = SimpleNamespace(start_logits=starts, end_logits=ends)
    exec(compile(code, "README.md", "exec"), {"processor": processor, "model": lambda **inputs: output})
    assert capsys.readouterr().out.strip() == "answer: w2"


def test_padding_and_the_other_rows_change_no_loss(reader: Path) -> None:
    made = adapted_on(reader)
    rows = [{**row, "answers": [{"text": "w", "start": row["context"].index("w")}]} for row in rows_of(6)]
    examples = [made.task.encode(row, made.context, train=True) for row in rows]

    def loss(batch: Batch) -> tuple[float, float]:
        with torch.no_grad():
            total, weight = made.task.loss(made.forward(batch), batch, made.context)
        return total.item(), weight.item()

    together = loss(made.task.collate(examples, made.context))
    alone = [loss(made.task.collate([example], made.context)) for example in examples]
    assert together[0] == pytest.approx(sum(one for one, _ in alone), rel=1e-4)
    assert together[1] == sum(weight for _, weight in alone) == sum(len(windows_of(one)) for one in examples)


@pytest.mark.parametrize(
    ("answer", "truths", "exact", "f1"),
    [
        ("The Eiffel Tower!", ["eiffel tower"], 1, 1.0),
        ("Eiffel", ["the Eiffel Tower"], 0, 2 / 3),
        ("in Paris", ["London", "Paris"], 0, 2 / 3),
        ("", [], 1, 1.0),
        ("Paris", [], 0, 0.0),
        ("", ["Paris"], 0, 0.0),
        ("a a b", ["a b b"], 0, 2 / 3),
        ("don't", ["dont"], 1, 1.0),
        ("Straße", ["strasse"], 0, 0.0),
    ],
)
def test_scores_are_those_of_the_script_of_squad(answer: str, truths: list[str], exact: int, f1: float) -> None:
    assert exact_match(answer, truths) == exact
    assert overlap_f1(answer, truths) == pytest.approx(f1)


def record_of(odds: float | None, given: float, answerable: bool) -> dict[str, Any]:
    scores = {"f1_given": given, "f1_none": float(not answerable), "f1": given, "correct": 0}
    return {**scores, "odds": odds, "answerable": answerable, "word": "what", "windows": 1}


def test_f1_by_threshold_answers_rows_at_the_threshold_and_none_of_a_text_without_a_piece() -> None:
    rows = [record_of(2.0, 0.0, False), record_of(None, 0.0, False), record_of(-1.0, 1.0, True)]
    (curve,) = answer_findings([*rows, record_of(-1.0, 1.0, True)]).curves
    assert curve.points == ((-1.0, 1.0), (2.0, 0.75))


def test_an_evaluation_of_a_text_without_a_piece_has_a_page(reader: Path) -> None:
    made = adapted_on(reader, no_answer=True)
    made.context.processor.backend_tokenizer.normalizer = normalizers.BertNormalizer()  # drops what is not visible
    row = {"question": "w1?", "context": "\u200b", "answers": []}
    batch = made.task.collate([made.task.encode({**row, "row": 0}, made.context, train=False)], made.context)
    with torch.no_grad():
        records = made.task.records(made.forward(batch), batch, made.context)
    assert made.task.findings(records, made.context).tables


def spec_of(folder: Path, base: Path, train: str, **changes: Any) -> RunSpec:
    return RunSpec.resolve(
        {
            "name": "qa",
            "base": str(base),
            "task": {"type": "question-answering", **changes.pop("task", {})},
            "method": changes.pop("method", "full"),
            "data": {"train": train, "eval": train, **changes.pop("data", {})},
            "training": {"epochs": 1, "batch_size": 4, "baselines": False, **changes},
            "compute": {"workers": 0, "cpus": 1},
            "store": str(folder / "store"),
        }
    )


SQUAD = {
    "question": "what is it?",
    "context": "it is a lamp, a lamp",
    "answers": {"text": ["lamp"], "answer_start": [8]},
}


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (
            {"answers": {"text": ["lamp"], "answer_start": [7]}},
            "'lamp' is said to begin at character 7, where the context has ' lam': it begins at 8",
        ),
        ({"answers": {"text": ["bulb"], "answer_start": [99]}}, "has 20 characters: it is nowhere in the context"),
        ({"answers": "lamp"}, "'lamp' is in the context 2 times: write its first character as answer_start"),
        ({"answers": "bulb"}, "'bulb' is nowhere in the context"),
        ({"answers": {"text": ["lamp"], "answer_start": [1.5]}}, "begins at 1.5"),
        ({"answers": {"text": ["lamp"], "answer_start": []}}, "as many places as texts are wanted"),
        ({"answers": [3]}, "an answer is {text, answer_start}"),
        ({"context": " "}, "context is empty"),
        ({"question": ""}, "question is empty"),
    ],
)
def test_a_bad_row_is_named_with_its_file_before_training(
    tmp_path: Path, changed: dict[str, Any], problem: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (SQUAD, {**SQUAD, **changed}, SQUAD)))
    data = DataSpec(train=str(path), eval=str(path))
    with pytest.raises(DataError) as refused:
        ingest(QuestionAnswering(), data, tmp_path)
    assert problem in str(refused.value) and f"{path}:2" in str(refused.value)
    assert ingest(QuestionAnswering(), data.model_copy(update={"bad_rows": "skip"}), tmp_path).rows["train"] == 2


@pytest.mark.parametrize("form", ["squad", "lists", "columns", "text"])
def test_every_form_of_a_file_is_the_same_rows(tmp_path: Path, form: str) -> None:
    context: Any = SQUAD["context"]
    columns: dict[str, Any] = {}
    one, two = {"text": "lamp", "answer_start": 8}, {"text": "it", "answer_start": 0}
    asked = [("what?", [one]), ("which?", [two]), ("who?", [])]
    if form == "squad":
        path = tmp_path / "rows.json"
        qas = [{"id": q, "question": q, "answers": a, "is_impossible": not a} for q, a in asked]
        path.write_text(json.dumps({"version": "v2.0", "data": [{"paragraphs": [{"qas": qas, "context": context}]}]}))
    elif form == "lists":
        path = tmp_path / "rows.json"
        path.write_text(json.dumps([{"question": q, "context": context, "answers": a} for q, a in asked]))
    else:
        path = tmp_path / "rows.csv"
        answers = [(a[0]["text"], a[0]["answer_start"]) if a else ("", "") for _, a in asked]
        if form == "columns":
            columns = {"answers": ["answer", "answer_start"]}
        lines = [f'{q},"{context}",{text},{start}' for (q, _), (text, start) in zip(asked, answers, strict=True)]
        names = "question,context,answer,answer_start" if form == "columns" else "question,context,answers,more"
        if form == "text":
            lines[0] = f'what?,"{context}","{{""text"": [""lamp""], ""answer_start"": [8]}}",'
        path.write_text("\n".join([names, *lines]))
    task = QuestionAnswering()
    found = ingest(task, DataSpec(train=str(path), eval=str(path), columns=columns), tmp_path)
    rows = Rows(found.files["train.arrow"], task.stored_columns())
    assert {row["question"]: row["answers"] for row in map(rows.row, range(3))} == {
        "what?": [{"text": "lamp", "start": 8}],
        "which?": [{"text": "it", "start": 0}],
        "who?": [],
    }


def test_an_answer_beyond_the_first_384_tokens_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model learns on short texts that the answer is the word after another, and reads windows of 384 tokens."""
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    base = tiny_reader(tmp_path / "base", [*WORDS, "treasure", "?"], length=512, layers=1)
    draw = random.Random(2)

    def row(words: int, place: int) -> dict[str, Any]:
        texts = draw.choices(WORDS, k=words)
        texts[place] = "treasure"
        start = len(" ".join(texts[:place])) + (place > 0)
        return {"question": "w1?", "context": " ".join(texts), "answers": [{"text": "treasure", "answer_start": start}]}

    rows = [row(12, draw.randrange(12)) for _ in range(160)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    spec = spec_of(tmp_path, base, str(tmp_path / "rows.jsonl"), epochs=6, batch_size=16, lr=0.01)
    assert train_local(spec).metrics["f1"] == 1
    model = Predictor.open(spec.store, "qa", device="cpu")
    for words, place in ((1500, 700), (1500, 1499), (900, 384), (500, 2)):
        asked = row(words, place)
        (answer,) = model.predict([{name: asked[name] for name in ("question", "context")}])
        wanted = asked["answers"][0]["answer_start"]
        assert (answer["answer"], answer["start"], answer["end"]) == ("treasure", wanted, wanted + 8)


def docs_questions() -> list[dict[str, Any]]:
    """Return 100 hand-written questions on this project's documentation."""
    (article,) = json.loads(QUESTIONS.read_text(encoding="utf-8"))["data"]
    return [{**question, "context": part["context"]} for part in article["paragraphs"] for question in part["qas"]]


def test_the_questions_on_the_documentation_have_their_answers_at_their_places() -> None:
    asked = docs_questions()
    assert len(asked) == len({one["question"] for one in asked}) == 100
    for one in asked:
        (answer,) = one["answers"]
        start = answer["answer_start"]
        assert one["context"][start : start + len(answer["text"])] == answer["text"]


@pytest.mark.long
def test_a_small_model_of_random_weights_learns_100_questions_by_heart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F1 0.99 after 600 steps, in 40 s on one thread; an answer stands behind the first 384 tokens of its text."""
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    asked = docs_questions()
    texts = [one[name] for one in asked for name in ("question", "context")]
    base = tiny_reader(tmp_path / "base", texts, length=512, width=64)
    training = {"epochs": 60, "batch_size": 10, "lr": 2e-3, "warmup": 0.1, "eval_steps": 600}
    spec = spec_of(tmp_path, base, str(QUESTIONS), **training)
    assert train_local(spec).metrics["f1"] >= FOUND
    model = Predictor.open(spec.store, "qa", device="cpu")
    read = model.adapted.context.processor
    far = [one for one in asked if len(read(one["context"][: one["answers"][0]["answer_start"]])["input_ids"]) > 386]
    answers = model.predict([{name: one[name] for name in ("question", "context")} for one in far])
    right = [answer["start"] == one["answers"][0]["answer_start"] for one, answer in zip(far, answers, strict=True)]
    assert far and all(right), list(zip(far, answers, strict=True))


@pytest.mark.slow
def test_an_evaluation_draws_true_and_predicted_answers_in_the_text(
    reader: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    rows = [{**row, "answers": [{"text": "w", "start": row["context"].index("w")}]} for row in rows_of(12)]
    rows.append({**rows_of(13)[-1], "answers": []})
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny.publish(tmp_path / "store", reader, QuestionAnswering(stride=STRIDE, no_answer=True), "full")
    options = EvaluationOptions(output=tmp_path / "out", resamples=20)
    found = evaluate(open_store(str(tmp_path / "store")), "tiny", str(path), options=options)
    html = found.html.read_text()
    assert html.count('class="entity') >= 12 and "no answer" in html and "By question word" in html
    assert "F1 by null_threshold" in html and set(found.document["metrics"]) == {"f1", "exact_match", "loss"}
    assert set(found.document["intervals"]) >= {"f1", "exact_match"}


def test_a_slow_tokenizer_is_refused(reader: Path) -> None:
    made = adapted_on(reader)

    class Slow:
        is_fast = False

    with pytest.raises(Unsupported, match="a fast tokenizer is needed"):
        made.task.configure(made.model, Context(Slow(), (), made.context.config))


def test_a_base_that_is_not_apart_from_its_layer_is_refused() -> None:
    with pytest.raises(Unsupported, match="name an encoder") as refused:
        QuestionAnswering().build(SimpleNamespace(config=SimpleNamespace(model_type="t5")), ())  # type: ignore[arg-type]
    assert refused.value.where == "base"


def test_a_base_that_reads_too_few_tokens_is_refused(reader: Path) -> None:
    made = adapted_on(reader)
    with pytest.raises(Unsupported, match="holds no question and text"):
        made.task.configure(made.model, Context(tokenizer_of_pairs(WORDS, 6), (), made.context.config))


@pytest.mark.slow
def test_a_frozen_part_is_computed_once_for_all_windows_of_a_row(reader: Path, tmp_path: Path) -> None:
    rows = [{**row, "answers": [{"text": "w", "start": row["context"].index("w")}]} for row in rows_of(24)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = {}
    for trunk in ("off", "disk", "memory"):
        notes: list[str] = []
        spec = spec_of(
            tmp_path / trunk,
            reader,
            str(path),
            method={"type": "freeze", "depth": 1},
            task={"stride": STRIDE},
            epochs=2,
            optimizer="sgd",
            lr=0.01,
        )
        spec = spec.override({"compute.trunk": trunk})
        outcome = train_local(spec, progress=lambda event, kept=notes: kept.append(getattr(event, "message", "")))
        assert any("computed once a row" in note for note in notes) == (trunk != "off"), notes
        found[trunk] = outcome.metrics
    for trunk in ("disk", "memory"):
        assert found[trunk] == {name: pytest.approx(value, abs=1e-5) for name, value in found["off"].items()}
