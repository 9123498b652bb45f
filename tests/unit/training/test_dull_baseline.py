"""Dull baselines: what shares, words or colours alone reach; fitted on training rows only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from regraft.contracts import Context, Task
from regraft.data.rows import Rows, RowWriter
from regraft.errors import Unsupported
from regraft.media.pixels.colour_histogram import colour_histogram
from regraft.training.dull_baseline import (
    STRENGTHS,
    DullTarget,
    PlainInputs,
    dull_answers,
    fitted_outputs,
    prior_outputs,
)
from support.tiny import TOPICS, WORDS

LABELS = tuple(sorted(TOPICS))


def written(task: Task, path: Path, values: list[dict[str, Any]]) -> Rows:
    with RowWriter(path, task.stored_columns()) as writer:
        for value in values:
            writer.add(value, 1)
    return Rows(path, task.stored_columns())


def texts(count: int, seed: int) -> list[tuple[str, int]]:
    """Texts with a word of their topic, and the number of the topic."""
    draw = np.random.default_rng(seed)
    found = []
    for number in range(count):
        topic = number % len(LABELS)
        words = [*draw.choice(WORDS[16:], 5), draw.choice(TOPICS[LABELS[topic]])]
        found.append((" ".join(draw.permutation(words)), topic))
    return found


def of(kind: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Rows of a task of texts whose targets follow from their topics."""
    targets: dict[str, Any] = {
        "text-classification": lambda topic: {"label": LABELS[topic]},
        "text-multi-label": lambda topic: {"labels": [LABELS[topic], *([LABELS[0]] if topic == 1 else [])]},
        "text-regression": lambda topic: {"target": 1000.0 + 10 * topic},
    }
    return [{"text": text, **targets[kind](topic)} for text, topic in texts(count, seed)]


@pytest.mark.parametrize("kind", ["text-classification", "text-multi-label", "text-regression"])
def test_words_answer_where_words_decide_and_shares_do_not(kind: str, tmp_path: Path) -> None:
    task = Task.parse(kind)
    train = written(task, tmp_path / "train.arrow", of(kind, 90, 1))
    held_out = written(task, tmp_path / "eval.arrow", of(kind, 45, 2))
    if not task.classes() and kind == "text-regression":
        task = task.fit_to_rows(train.numbers)
    context = Context(processor=None, labels=() if kind == "text-regression" else LABELS)
    prior, words = dull_answers(task, context, train, held_out)
    assert (prior.name, words.name) == ("mean" if kind == "text-regression" else "majority", "words")
    score = task.score.name
    assert task.metrics(words.records, context)[score] > 0.9
    assert task.metrics(prior.records, context)[score] < 0.7
    assert len(words.records) == len(held_out)


def test_words_are_tf_idf_with_a_logistic_regression_of_a_tried_strength() -> None:
    known, asked = texts(60, 1), texts(30, 2)
    inputs = PlainInputs(60, "words", {"text": [text for text, _ in known]})
    target = DullTarget("classes", np.array([topic for _, topic in known]), 3)
    found = fitted_outputs(inputs, target, PlainInputs(30, "words", {"text": [text for text, _ in asked]}))
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    design = vectorizer.fit_transform(inputs.texts["text"])
    others = vectorizer.transform([text for text, _ in asked])
    expected = [
        LogisticRegression(C=strength, max_iter=300).fit(design, target.values).predict_log_proba(others)
        for strength in STRENGTHS
    ]
    assert any(np.allclose(found, one, atol=1e-6) for one in expected)


def test_colours_answer_where_colours_decide(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)

    def picture(number: int) -> bytes:
        shade = np.array([200, 40, 40] if number % 2 else [40, 40, 200])
        pixels = np.clip(draw.normal(shade, 30, (20, 30, 3)), 0, 255).astype(np.uint8)
        path = tmp_path / "picture.png"
        Image.fromarray(pixels).save(path)
        return path.read_bytes()

    task, context = Task.parse("image-classification"), Context(processor=None, labels=("blue", "red"))
    rows = [{"image": picture(number), "label": ("blue", "red")[number % 2]} for number in range(40)]
    train, held_out = (
        written(task, tmp_path / f"{side}.arrow", part) for side, part in (("a", rows[:24]), ("b", rows[24:]))
    )
    colours = dull_answers(task, context, train, held_out)[1]
    assert colours.name == "colours"
    assert task.metrics(colours.records, context)["accuracy"] == 1.0


def test_a_histogram_has_unit_length_and_little_of_it_depends_on_the_size() -> None:
    draw = np.random.default_rng(3)
    image = Image.fromarray(np.repeat(np.repeat(draw.integers(0, 256, (8, 8, 3), np.uint8), 40, 0), 40, 1))
    small, large = colour_histogram(image.resize((80, 80), Image.Resampling.NEAREST)), colour_histogram(image)
    assert np.linalg.norm(large) == pytest.approx(1.0)
    assert small @ large > 0.9


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (DullTarget("classes", np.array([0, 1, 1, 1]), 3), [np.log(0.25), np.log(0.75), -30.0]),
        (DullTarget("tags", np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0]]), 2), [30.0, np.log(0.5)]),
        (DullTarget("numbers", np.array([[1.0], [2.0], [6.0]]), 1), [3.0]),
    ],
)
def test_shares_and_means_of_the_training_rows_alone(target: DullTarget, expected: list[float]) -> None:
    found = prior_outputs(target, 2)
    assert np.allclose(found, [expected, expected], atol=0.2)


@pytest.mark.parametrize("written_texts", [["", "  ", ""], ["!", "?", "."]])
def test_texts_without_words_leave_the_shares(written_texts: list[str]) -> None:
    inputs = PlainInputs(3, "words", {"text": written_texts})
    target = DullTarget("classes", np.array([0, 1, 1]), 2)
    assert np.array_equal(fitted_outputs(inputs, target, inputs), prior_outputs(target, 3))


@pytest.mark.parametrize("values", [np.zeros(6, int), np.array([0, 0, 0, 0, 0, 2])])
def test_a_class_without_rows_and_one_of_a_single_row_can_be_fitted(values: Any) -> None:
    inputs = PlainInputs(6, "words", {"text": ["a", "b", "c", "d", "e", "f"]})
    found = fitted_outputs(inputs, DullTarget("classes", values, 3), inputs)
    assert np.isfinite(found).all()
    assert (found[:, 1] == -30.0).all()


def test_a_task_with_other_answers_than_a_vector_has_no_dull_baseline(tmp_path: Path) -> None:
    task = Task.parse("token-classification")
    rows = written(task, tmp_path / "rows.arrow", [{"tokens": ["a"], "tags": ["O"]}])
    with pytest.raises(Unsupported, match="not one vector"):
        dull_answers(task, Context(processor=None, labels=("O",)), rows, rows)
