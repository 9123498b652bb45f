"""Few-shot evaluation: the same episodes from the same seeds, of any classes, answered by the nearest class mean."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.neighbors import NearestCentroid

import regraft
from regraft.cli import main
from regraft.errors import DataError, RequestError
from regraft.evaluation.episodes import EpisodesResult, draw_episode, evaluate_episodes, nearest_mean, summary
from regraft.evaluation.options import EpisodeOptions, EvaluationOptions
from regraft.store.objects import open_store

CLASSES = [np.arange(start, start + size) for start, size in ((0, 4), (4, 9), (13, 6), (19, 20))]


@pytest.fixture
def measured(trained: Path, tmp_path: Path) -> Any:
    """Evaluate `tiny` on episodes of a file."""

    def call(data: Path = trained / "rows.csv", **options: Any) -> EpisodesResult:
        chosen = EpisodeOptions(**{"episodes": 12, "way": 2, **options})
        where = EvaluationOptions(output=tmp_path / "out", episodes=chosen)
        return evaluate_episodes(open_store(str(trained / "store")), "tiny", str(data), options=where)

    return call


@pytest.fixture(scope="session")
def renamed(trained: Path) -> Path:
    """The rows with labels that the model does not know, one of them with a single row."""
    head, *rows = (trained / "rows.csv").read_text().splitlines()
    new = [f"{row.rpartition(',')[0]},new {row.rpartition(',')[2]}" for row in rows]
    path = trained / "renamed.csv"
    path.write_text("\n".join([head, *new, "my lamp,alone"]) + "\n")
    return path


def by_hand(trained: Path, path: Path, document: dict[str, Any], options: EpisodeOptions) -> list[float]:
    lines = path.read_text().splitlines()[1:]
    texts, labels = zip(*(line.rsplit(",", 1) for line in lines), strict=True)
    model = regraft.load("tiny", store=str(trained / "store"))
    rows = [{"row": number, "text": text} for number, text in enumerate(texts)]
    features = np.stack([np.asarray(vector, np.float64) for vector in model.features(rows)])
    if options.cosine:
        features /= np.linalg.norm(features, axis=1, keepdims=True)
    classes = [np.flatnonzero(np.array(labels) == name) for name in sorted(set(labels)) if labels.count(name) > 1]
    found = []
    for seed in document["episodes"]["seeds"]:
        drawn = draw_episode(classes, seed, options)
        if options.cosine:
            means = np.stack([features[rows].mean(0) for rows in drawn.support])
            means /= np.linalg.norm(means, axis=1, keepdims=True)
            guesses = [(features[rows] @ means.T).argmax(1) for rows in drawn.query]
        else:
            support, shots = np.concatenate(drawn.support), [len(rows) for rows in drawn.support]
            with np.errstate(invalid="ignore"):
                judge = NearestCentroid().fit(features[support], np.repeat(np.arange(options.way), shots))
            guesses = [judge.predict(features[rows]) for rows in drawn.query]
        right = np.concatenate([guess == number for number, guess in enumerate(guesses)])
        found.append(float(right.mean()))
    return found


@pytest.mark.parametrize(("shot", "cosine"), [(1, False), (3, True)])
def test_accuracy_is_that_of_the_nearest_class_mean_on_classes_that_the_model_does_not_know(
    measured: Any, trained: Path, renamed: Path, shot: int, cosine: bool
) -> None:
    result = measured(renamed, shot=shot, cosine=cosine)
    document = result.document
    expected = by_hand(trained, renamed, document, EpisodeOptions(episodes=12, way=2, shot=shot, cosine=cosine))
    assert document["accuracies"] == pytest.approx(expected, abs=1e-9)
    assert document["metrics"]["accuracy"] == pytest.approx(np.mean(expected))
    half = 1.96 * np.std(expected, ddof=1) / math.sqrt(12)
    low, high = document["intervals"]["accuracy"].values()
    assert (low, high) == pytest.approx((np.mean(expected) - half, np.mean(expected) + half))
    assert document["data"]["classes"] == 3 and document["data"]["classes_left_out"] == ["alone"]
    assert any("1 class has no more than" in note and note.endswith("alone") for note in document["notes"])
    assert not any("known to the model" in note for note in document["notes"])
    assert json.loads(result.json.read_text()) == document


def test_the_same_episodes_come_again_and_known_classes_are_named(measured: Any) -> None:
    first, again, more = measured().document, measured().document, measured(episodes=20).document
    assert first["accuracies"] == again["accuracies"] == more["accuracies"][:12]
    assert first["episodes"]["seeds"] == list(range(12)) and first["chance"] == 0.5
    assert any("3 of 3 classes known to the model" in note for note in first["notes"])


def test_an_episode_has_different_rows_of_different_classes_whatever_is_asked() -> None:
    options = EpisodeOptions(way=3, shot=2, query=5)
    for seed in range(40):
        drawn = draw_episode(CLASSES, seed, options)
        rows = np.concatenate([*drawn.support, *drawn.query])
        assert len(set(rows.tolist())) == len(rows)
        for support, query in zip(drawn.support, drawn.query, strict=True):
            (home,) = [one for one in CLASSES if support[0] in one]
            assert len(support) == 2 and len(query) == min(5, len(home) - 2)
            assert set([*support.tolist(), *query.tolist()]) <= set(home.tolist())
    assert len({str(draw_episode(CLASSES, seed, options)) for seed in range(40)}) == 40


def test_a_direction_does_not_depend_on_length() -> None:
    rows, means = np.array([[9.0, 1.0], [0.1, 0.2]]), np.array([[0.5, 0.0], [3.0, 3.0]])
    assert nearest_mean(rows, means, cosine=True).tolist() == [0, 1]
    assert nearest_mean(rows, means, cosine=False).tolist() == [1, 0]


def test_one_episode_has_no_interval() -> None:
    assert summary(np.array([0.25])) == {"metrics": {"accuracy": 0.25}, "intervals": {}, "deviation": None}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"way": 5}, r"takes 5 classes of 2 rows or more .* and 3 of 3 classes here have as many"),
        ({"way": 2, "shot": 15}, r"15 to learn from, 1 to ask\), and 0 of 3 classes"),
    ],
)
def test_too_few_examples_are_refused_in_words(measured: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        measured(**options)
    assert isinstance(caught.value, RequestError) and caught.value.exit_code == 2


def test_the_command_prints_a_table_and_json(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "tiny", str(trained / "rows.csv"), "--store", str(trained / "store")]
    words += ["--way", "3", "--episodes", "20", "--output", str(tmp_path / "o")]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "tiny@v2 is evaluated on episodes" in shown and "20: 3 way, 1 shot, 15 query rows at most" in shown
    assert main([*words, "--cosine", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["episodes"]["cosine"] is True and "accuracies" not in document
    assert Path(document["json"]).is_file()


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (("--way", "1"), "--way"),
        (("--episodes", "0"), "--episodes"),
        (("--shot", "x"), "'x' is written"),
        (("--shot", "1", "--against", "tiny"), "--against"),
        (("--way", "9"), "write a smaller --way"),
    ],
)
def test_what_makes_no_episode_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], written: tuple[str, ...], message: str
) -> None:
    words = ["evaluate", "tiny", str(trained / "rows.csv"), "--store", str(trained / "store")]
    assert main([*words, "--output", str(tmp_path / "o"), *written]) == 2
    assert message in capsys.readouterr().err
