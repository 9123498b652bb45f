"""Few-shot evaluation: random episodes of classes that the model need not know, answered by the nearest class mean."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.contracts import Progress, RowsEvaluated
from regraft.data.rows import Rows
from regraft.data.sampler import shuffled
from regraft.errors import DataError, RequestError, Unsupported
from regraft.evaluation.document import model_facts
from regraft.evaluation.labelled_rows import LabelledRows, read_labelled
from regraft.evaluation.options import EpisodeOptions, EvaluationOptions
from regraft.report.html import put
from regraft.serving.predictor import Predictor
from regraft.store.atomic_files import writing_locally
from regraft.store.objects import ObjectStore
from regraft.units import counted, finite

JSON = "episodes.json"
WITHIN = 1.96
"""Standard errors to either side of a mean in a 95 % interval."""
_AT_ONCE = 1024
_SHOWN = 5
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class EpisodesResult:
    """The file of a few-shot evaluation; `document` is its content."""

    document: dict[str, Any]
    json: Path


@dataclass(frozen=True)
class DrawnEpisode:
    """The rows of one episode, by the class's number in it."""

    support: tuple[Indices, ...]
    query: tuple[Indices, ...]


def evaluate_episodes(
    store: ObjectStore,
    reference: str,
    data: str,
    *,
    options: EvaluationOptions,
    progress: Progress | None = None,
) -> EpisodesResult:
    """Measure the features of the version `reference` on episodes of the labelled rows at `data`; write JSON.

    Classes are those of the rows, whether the model knows them or not. Raises Unsupported for a task without one label
    a row, DataError where too few classes have enough rows, and the errors of `evaluate`.
    """
    began, started = time.monotonic(), datetime.now(UTC)
    episodes = options.episodes or EpisodeOptions()
    predictor = Predictor.open(store, reference, plugins=options.plugins, base=options.base, device=options.device)
    task = predictor.adapted.task
    if "prototypes" not in task.supports:
        raise Unsupported(f"episodes need one label a row, which task {task.key()} has not", where="--episodes")
    with tempfile.TemporaryDirectory(prefix="regraft-episodes-") as scratch:
        with writing_locally(Path(scratch)):
            labelled = read_labelled(predictor, data, Path(scratch), options, labels=())
        classes, left_out = usable_classes(labelled, episodes)
        drawn = [draw_episode(list(classes.values()), seed, episodes) for seed in range(episodes.episodes)]
        features = row_features(predictor, labelled.rows, rows_of(drawn), progress)
    shares = np.array([accuracy(features, episode, cosine=episodes.cosine) for episode in drawn])
    document = {
        **model_facts(predictor),
        "kind": "episodes",
        "data": _data(labelled, classes, left_out),
        "episodes": {**episodes.document(), "seeds": list(range(episodes.episodes))},
        "score": {"name": "accuracy", "mode": "max"},
        **summary(shares),
        "chance": 1 / episodes.way,
        "accuracies": shares.tolist(),
        "notes": [*labelled.notes, *_notes(predictor, classes, left_out, episodes)],
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - began, 3),
    }
    return _write({name: finite(value) for name, value in document.items()}, options.output)


def usable_classes(labelled: LabelledRows, episodes: EpisodeOptions) -> tuple[dict[str, Indices], tuple[str, ...]]:
    """Return the rows of each class that has a query row beside its support, and the names of the other classes.

    Raises DataError where the former are fewer than an episode takes.
    """
    every = labelled.rows.by_label()
    found = {label: rows for label, rows in every.items() if len(rows) > episodes.shot}
    if len(found) < episodes.way:
        raise DataError(
            f"an episode takes {counted(episodes.way, 'class', 'classes')} of {episodes.shot + 1} rows or more "
            f"({episodes.shot} to learn from, 1 to ask), and {len(found)} of {counted(len(every), 'class', 'classes')} "
            "here have as many: write a smaller --way or --shot, or add rows",
            where=labelled.path,
        )
    return found, tuple(label for label in every if label not in found)


def draw_episode(classes: Sequence[Indices], seed: int, episodes: EpisodeOptions) -> DrawnEpisode:
    """Return the episode of a seed: a pure function of its arguments."""
    support, query = [], []
    for number in shuffled(len(classes), "classes", seed)[: episodes.way].tolist():
        rows = classes[number][shuffled(len(classes[number]), "rows", seed, number)]
        support.append(rows[: episodes.shot])
        query.append(rows[episodes.shot : episodes.shot + episodes.query])
    return DrawnEpisode(tuple(support), tuple(query))


def rows_of(drawn: Sequence[DrawnEpisode]) -> Indices:
    """Return the rows that any episode reads, each once, in order."""
    return np.unique(np.concatenate([rows for one in drawn for rows in (*one.support, *one.query)]))


def row_features(
    predictor: Predictor, rows: Rows, wanted: Indices, progress: Progress | None
) -> dict[int, NDArray[np.float64]]:
    """Return the features of the wanted rows, (width,) each. Raises DataError for the first that cannot be encoded."""
    targets = predictor.adapted.task.target_columns()
    found: dict[int, NDArray[np.float64]] = {}
    for start in range(0, len(wanted), _AT_ONCE):
        chosen = wanted[start : start + _AT_ONCE].tolist()
        asked = [{name: value for name, value in rows.row(row).items() if name not in targets} for row in chosen]
        for row, vector in zip(chosen, predictor.features(asked), strict=True):
            if isinstance(vector, DataError):
                raise vector
            found[row] = vector.double().numpy()
        if progress:
            progress(RowsEvaluated(len(found), len(wanted), predictor.name))
    return found


def accuracy(features: Mapping[int, NDArray[np.float64]], episode: DrawnEpisode, *, cosine: bool) -> float:
    """Return the share of an episode's query rows whose nearest class mean is that of their class."""
    means = np.stack([_vectors(features, rows, cosine=cosine).mean(0) for rows in episode.support])
    asked = np.concatenate([_vectors(features, rows, cosine=cosine) for rows in episode.query])
    truth = np.repeat(np.arange(len(episode.query)), [len(rows) for rows in episode.query])
    return float((nearest_mean(asked, means, cosine=cosine) == truth).mean())


def nearest_mean(rows: NDArray[np.float64], means: NDArray[np.float64], *, cosine: bool) -> NDArray[np.int64]:
    """Return the number of the class mean that is nearest to each row: by distance, or by direction.

    With `cosine`, rows have length 1 and means are those of such rows, as in method prototypes.
    """
    if cosine:
        means = means / np.linalg.norm(means, axis=1, keepdims=True).clip(min=np.finfo(np.float64).tiny)
    scores = rows @ means.T - (0 if cosine else (means**2).sum(1) / 2)
    found: NDArray[np.int64] = scores.argmax(1)
    return found


def summary(shares: NDArray[np.float64]) -> dict[str, Any]:
    """Return the mean accuracy over episodes with its 95 % interval, mean +- 1.96 s / sqrt(episodes)."""
    mean = float(shares.mean())
    if len(shares) < 2:
        return {"metrics": {"accuracy": mean}, "intervals": {}, "deviation": None}
    deviation = float(shares.std(ddof=1))
    half = WITHIN * deviation / math.sqrt(len(shares))
    bounds = {"low": mean - half, "high": mean + half}
    return {"metrics": {"accuracy": mean}, "intervals": {"accuracy": bounds}, "deviation": deviation}


def _vectors(features: Mapping[int, NDArray[np.float64]], rows: Indices, *, cosine: bool) -> NDArray[np.float64]:
    found = np.stack([features[row] for row in rows.tolist()])
    if not cosine:
        return found
    unit: NDArray[np.float64] = found / np.linalg.norm(found, axis=1, keepdims=True).clip(min=np.finfo(np.float64).tiny)
    return unit


def _data(labelled: LabelledRows, classes: Mapping[str, Indices], left_out: Sequence[str]) -> dict[str, Any]:
    return {
        "path": labelled.path,
        "rows": len(labelled.rows),
        "classes": len(classes),
        "classes_left_out": list(left_out),
        "skipped": dict(labelled.skipped),
        "fingerprint": labelled.fingerprint,
        "columns": dict(labelled.columns),
    }


def _notes(
    predictor: Predictor, classes: Mapping[str, Indices], left_out: Sequence[str], episodes: EpisodeOptions
) -> Iterator[str]:
    """Yield sentences about what the figure does not say."""
    if left_out:
        more = f" and {len(left_out) - _SHOWN} more" if len(left_out) > _SHOWN else ""
        yield (
            f"{counted(len(left_out), 'class has', 'classes have')} no more than {counted(episodes.shot, 'row')}, and "
            f"{'is' if len(left_out) == 1 else 'are'} in no episode: {', '.join(left_out[:_SHOWN])}{more}"
        )
    fewer = sum(len(rows) < episodes.shot + episodes.query for rows in classes.values())
    if fewer:
        few = counted(fewer, "class has", "classes have")
        yield f"{few} fewer than {episodes.query} rows to ask: all of them are asked"
    if known := sum(label in predictor.labels for label in classes):
        yield (
            f"{known} of {counted(len(classes), 'class', 'classes')} known to the model: episodes tell how it "
            "does on new classes only with classes that it was not trained on"
        )


def _write(document: dict[str, Any], output: Path) -> EpisodesResult:
    if output.exists() and not output.is_dir():
        raise RequestError("is a file; write the name of a folder, which may not exist yet", where=str(output))
    with writing_locally(output):
        output.mkdir(parents=True, exist_ok=True)
        put(output / JSON, json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False, default=str) + "\n")
    return EpisodesResult(document, output / JSON)
