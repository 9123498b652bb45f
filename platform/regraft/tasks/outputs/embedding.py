"""A vector for each input, learned from pairs, triplets or graded pairs: its loss, metrics and answers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, cast, overload

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy.stats import pearsonr, spearmanr
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import ModelOutput

from regraft.contracts import Answer, Batch, Context, Kind, Record, Row, Score, Task
from regraft.contracts.findings import Findings, Table
from regraft.errors import Unsupported
from regraft.tasks.metrics.retrieval import of_ranks, ranks_of, share_by_rank
from regraft.tasks.outputs.contrastive import (
    cosent_loss,
    cosine_loss,
    cut_to,
    every_size,
    ranking_loss,
    triplet_loss,
)

_RANKING, _GRADED = Score("ndcg_at_10", "max"), Score("spearman", "max")
_OBJECTIVES = {"pairs": ("ranking",), "triplets": ("ranking", "triplet"), "graded": ("cosent", "cosine")}
"""The objectives of each form of rows, the usual one first."""


@dataclass
class EmbeddingOutput(ModelOutput):  # type: ignore[misc]
    """Vectors of length 1: (rows, width), or (rows, columns, width) for rows of several inputs."""

    embeddings: Tensor | None = None


class _ScoreOfRows:
    """The score of a task by the form of its rows; that of pairs for the class itself."""

    @overload
    def __get__(self, task: None, owner: type) -> Score: ...
    @overload
    def __get__(self, task: Embedding, owner: type) -> Score: ...
    def __get__(self, task: Embedding | None, owner: type) -> Score:
        return _GRADED if task is not None and task.rows == "graded" else _RANKING


class Embedding(Task):
    """Half of a task: vectors of inputs, near for those that belong together.

    The other half encodes an input. A row has an input, what belongs to it (`pair`), and what else its form says.
    """

    score: ClassVar[Score] = cast(Score, _ScoreOfRows())
    whole_step: ClassVar[bool] = True
    proposed: ClassVar[bool] = False

    rows: Literal["pairs", "triplets", "graded"] = "pairs"
    """What a row holds beside the input: pairs has `pair`, which belongs to it, and the other rows of a step are its
    negatives; triplets has `negative` too, which is like it and does not belong; graded has `pair` and a `score`."""
    negatives: int = Field(1, ge=1, le=16)
    """Columns of negatives in triplets: `negative`, `negative_2`, `negative_3`, ..."""
    objective: Literal["auto", "ranking", "triplet", "cosent", "cosine"] = "auto"
    """The loss. ranking finds the pair among those of all rows of a step (InfoNCE, multiple negatives ranking); triplet
    keeps the negative a margin away; cosent orders cosines as scores (CoSENT); cosine makes them equal to the scores.
    auto is ranking, and cosent for graded rows."""
    scale: float = Field(20.0, gt=0, le=1000)
    """Factor of cosines in ranking and cosent: 1 / temperature."""
    margin: float = Field(0.2, gt=0, le=2)
    """Cosine distance of triplet."""
    sizes: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Shorter sizes that are trained beside the full one (Matryoshka), such as [192, 96]: the first numbers of a vector
    are then a vector by themselves."""

    @model_validator(mode="after")
    def _objective_fits_the_rows(self) -> Self:
        allowed = _OBJECTIVES[self.rows]
        if self.objective not in ("auto", *allowed):
            raise ValueError(f"objective: {self.objective} is written; for rows: {self.rows} allowed are "
                             f"auto, {', '.join(allowed)}")  # fmt: skip
        if self.negatives > 1 and self.rows != "triplets":
            raise ValueError(f"negatives: {self.negatives} is written, and rows: {self.rows} have none: write triplets")
        if len(set(self.sizes)) < len(self.sizes):
            raise ValueError(f"sizes: {list(self.sizes)} is written; each is written once")
        return self

    @property
    def loss_name(self) -> str:
        """The objective that `auto` stands for."""
        return _OBJECTIVES[self.rows][0] if self.objective == "auto" else self.objective

    @property
    def least_rows(self) -> int:
        """The fewest rows of a step: a triplet, or a score that a cosine should equal, teaches by itself."""
        return 1 if self.rows == "triplets" or self.loss_name == "cosine" else 2

    @classmethod
    def asked(cls) -> str:
        """Return the column of the input that is asked."""
        return next(iter(cls.columns))

    def compared(self) -> tuple[str, ...]:
        """Return the columns of inputs: the one that is asked, its pair, and its negatives."""
        more = ["negative", *(f"negative_{number}" for number in range(2, self.negatives + 1))]
        return (*self.columns, *(more if self.rows == "triplets" else ()))

    def input_columns(self) -> Mapping[str, Kind]:
        """Return the columns of inputs, and `score` of graded rows."""
        kind = next(iter(self.columns.values()))
        return {**dict.fromkeys(self.compared(), kind), **({"score": "number"} if self.rows == "graded" else {})}

    def target_columns(self) -> frozenset[str]:
        """Return all columns but the input: vectors are asked of one input at a time."""
        return frozenset(self.input_columns()) - {self.asked()}

    def configure(self, model: nn.Module, context: Context) -> None:
        """Raise Unsupported for a size that is not smaller than the base's vectors."""
        width: int | None = getattr(model, "width", None)
        if width is not None and (large := [size for size in self.sizes if size >= width]):
            raise Unsupported(f"{large[0]} is written; this base's vectors have {width} numbers", where="task.sizes")

    def check(self, row: Row) -> str | None:
        """Refuse a score that no cosine can be equal to."""
        score = row.get("score")
        if self.loss_name == "cosine" and score is not None and not -1 <= score <= 1:
            return f"score is {score:g}; for objective cosine it lies between -1 and 1: divide the column"
        return None

    def remark(self, row: Row) -> str | None:
        """Return that an input and its pair are equal, from which nothing is learned."""
        same = self.rows != "graded" and row.get("pair") == row[self.asked()]
        return f"{self.asked()} and pair are equal: nothing is learned from such rows" if same else None

    @abstractmethod
    def key_of(self, value: Any) -> int:
        """Return a number that inputs of equal content share."""

    def keys_of(self, row: Row) -> dict[str, Any] | None:
        """Return the labels of a row: keys of its contents and the score; None for a row to predict."""
        if any(row.get(name) is None for name in self.input_columns()):
            return None
        score = {"score": float(row["score"])} if self.rows == "graded" else {}
        return {"keys": [self.key_of(row[name]) for name in self.compared()], **score}

    def with_keys(self, batch: Batch, labels: Sequence[Mapping[str, Any] | None]) -> Batch:
        """Return the batch with the labels of its rows, where all have them."""
        given = [one for one in labels if one is not None]
        if len(given) < len(labels):
            return batch
        found = {"keys": torch.tensor([one["keys"] for one in given], dtype=torch.long)}
        if self.rows == "graded":
            found["scores"] = torch.tensor([one["score"] for one in given], dtype=torch.float32)
        return {**batch, "labels": found}

    def step_values(self, output: Any) -> Tensor:
        """Return the vectors, (rows, columns, width)."""
        found: Tensor = output.embeddings
        return found

    def step_loss(self, values: Tensor, labels: Mapping[str, Tensor], context: Context) -> Tensor:
        """Return the objective's loss, summed over the sizes."""
        losses = [self._loss(vectors, labels) for vectors in every_size(values, self.sizes)]
        return torch.stack(losses).sum()

    def _loss(self, vectors: Tensor, labels: Mapping[str, Tensor]) -> Tensor:
        if self.loss_name == "ranking":
            return ranking_loss(vectors, labels["keys"], self.scale)
        if self.loss_name == "triplet":
            return triplet_loss(vectors, self.margin)
        if self.loss_name == "cosent":
            return cosent_loss(vectors, labels["scores"], self.scale)
        return cosine_loss(vectors, labels["scores"])

    def loss(self, output: Any, batch: Batch, context: Context) -> tuple[Tensor, Tensor]:
        """Return the loss of these rows as a step of their own, times their number, and that number."""
        values = self.step_values(output)
        with torch.autocast(values.device.type, enabled=False):
            loss = self.step_loss(values.float(), batch["labels"], context)
        return loss * len(values), loss.new_tensor(float(len(values)))

    def records(self, output: Any, batch: Batch, context: Context) -> list[Record]:
        """Return per row its vectors (columns, width), the keys of their contents, and its score."""
        vectors = output.embeddings.float().cpu().numpy()
        labels = batch["labels"]
        scores = labels["scores"].tolist() if "scores" in labels else [None] * len(vectors)
        every = zip(vectors, labels["keys"].cpu().numpy(), scores, strict=True)
        return [{"vectors": one, "keys": keys, "score": score} for one, keys, score in every]

    def complete_records(self, records: Sequence[Record], context: Context) -> list[Record]:
        """Return records without vectors: ranks among the pairs of all rows, or similarities of graded rows."""
        vectors = np.stack([record["vectors"] for record in records])
        every = [torch.from_numpy(vectors), *(cut_to(torch.from_numpy(vectors), size) for size in self.sizes)]
        return self._graded(records, every) if self.rows == "graded" else self._ranked(records, every)

    def _ranked(self, records: Sequence[Record], every: Sequence[Tensor]) -> list[Record]:
        keys = np.stack([record["keys"] for record in records])
        ranks = np.stack([ranks_of(vectors.numpy(), keys) for vectors in every], 1)
        found: list[Record] = [
            {"ranks": row, "correct": int(row[0] <= 1), "error": float(1 - 1 / row[0])} for row in ranks
        ]
        if self.rows == "triplets":
            first = every[0]
            near = torch.einsum("rw,rnw->rn", first[:, 0], first[:, 1:])
            for record, right in zip(found, (near[:, 0] > near[:, 1:].max(1).values).tolist(), strict=True):
                record["nearer"] = int(right)
        return found

    def _graded(self, records: Sequence[Record], every: Sequence[Tensor]) -> list[Record]:
        cosines = torch.stack([F.cosine_similarity(vectors[:, 0], vectors[:, 1]) for vectors in every], 1).numpy()
        scores = np.array([record["score"] for record in records])
        apart = np.abs(_places(cosines[:, 0]) - _places(scores))
        rows = zip(cosines, scores.tolist(), apart.tolist(), strict=True)
        return [{"cosines": one, "score": score, "error": error} for one, score, error in rows]

    def metrics(self, records: Sequence[Record], context: Context) -> dict[str, float]:
        """Return nDCG and MRR at 10 and recall at 1, 5 and 10 of finding the pair among those of all rows; for
        triplets, also the share of rows whose negatives are all further; for graded rows Spearman's and Pearson's
        correlation instead. Those of a shorter size end with its number: `ndcg_at_10_of_96`."""
        of, name = (_correlations, "cosines") if self.rows == "graded" else (of_ranks, "ranks")
        values = np.stack([record[name] for record in records])
        scores = np.array([record.get("score") or 0.0 for record in records])
        found: dict[str, float] = {}
        for column, ending in enumerate(self._endings()):
            one = of(values[:, column]) if of is of_ranks else _correlations(values[:, column], scores)
            found |= {f"{metric}{ending}": value for metric, value in one.items()}
        if self.rows == "triplets":
            found["triplet_accuracy"] = float(np.mean([record["nearer"] for record in records]))
        return found

    def _endings(self) -> tuple[str, ...]:
        return ("", *(f"_of_{size}" for size in self.sizes))

    def findings(self, records: Sequence[Record], context: Context) -> Findings:
        """Return how many pairs were found at which rank."""
        if self.rows == "graded":
            return Findings()
        ranks = np.array([record["ranks"][0] for record in records])
        note = "Rank of the pair among the distinct pairs and negatives of all rows, by cosine."
        return Findings(tables=(Table("Ranks", ("rank", "rows", "share"), tuple(share_by_rank(ranks)), note),))

    def answers(self, output: Any, batch: Batch, context: Context) -> list[Answer]:
        """Return `embedding`: a vector of length 1 for each input."""
        return [{"embedding": vector} for vector in output.embeddings.float().tolist()]


def _places(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the place of each value among all, from 0 to 1; equal ones share theirs."""
    ordered = np.sort(values)
    middle = (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right") - 1) / 2
    return np.asarray(middle / max(1, len(values) - 1))


def _correlations(cosines: NDArray[Any], scores: NDArray[Any]) -> dict[str, float]:
    """Return the correlations of cosines with scores; with constant numbers they count as 0."""
    if len(scores) < 2 or np.ptp(cosines) == 0 or np.ptp(scores) == 0:
        return {"spearman": 0.0, "pearson": 0.0}
    return {
        "spearman": float(spearmanr(cosines, scores).statistic),
        "pearson": float(pearsonr(cosines, scores).statistic),
    }
