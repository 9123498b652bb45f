"""Numbers per row: their scale, loss, metrics, findings and answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, model_validator
from scipy.stats import pearsonr, spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from regraft.contracts import (
    Answer,
    ApiForm,
    Batch,
    Context,
    Kind,
    Loader,
    Numbers,
    Record,
    Row,
    Score,
    medium_of,
    scores_form,
)
from regraft.contracts.findings import Curve, Findings, Table
from regraft.errors import DataError, Unsupported
from regraft.lazy import Later
from regraft.tasks.outputs.number_range import deviation_of, mean_of, small_pair
from regraft.tasks.outputs.one_vector import OneVector, stacked

sklearn_metrics = Later("sklearn.metrics")

_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
LEAST = 1e-300
"""The smallest deviation of targets; its reciprocal, by which gradients are multiplied, is finite."""
_POINTS = 2000
"""Most rows that a scatter shows."""


class Regression(OneVector):
    """Half of a task: numbers for each row, from logits (rows, targets) in the targets' own units.

    The head is trained on standardised targets, so that one learning rate suits ratings and prices alike.
    """

    model_config = ConfigDict(serialize_by_alias=True)
    problem: ClassVar[str] = "regression"
    score: ClassVar[Score] = Score("spearman", "max")

    # Specs call this field `targets`, which in Python is a hook of OneVector.
    target_names: tuple[Annotated[str, Field(min_length=1)], ...] = Field(("target",), alias="targets", min_length=1)
    """The columns of the numbers to predict, one number each: [rating], or [x, y, angle]."""
    distance: Literal["huber", "mse"] = "huber"
    """The loss: huber is quadratic up to one standard deviation and linear beyond, so that outliers weigh less (Huber,
    1964); mse is quadratic everywhere."""
    mean: tuple[float, ...] | None = None
    """What counts as 0 in training, for each target; null takes the mean of the training rows."""
    deviation: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    """What counts as 1 in training, for each target; null takes the standard deviation of the training rows."""

    @model_validator(mode="after")
    def _targets_are_columns_of_their_own(self) -> Self:
        taken = [name for name, kind in self.columns.items() if kind != "number"]
        for name in self.target_names:
            if name in (*taken, "row") or self.target_names.count(name) > 1:
                raise ValueError(
                    f"targets: {name!r} is written; each target is named once and is not {', '.join(taken)} or row: "
                    "rename the column in the file and name it in data.columns"
                )
        for field in ("mean", "deviation"):
            given = getattr(self, field)
            if given is not None and len(given) != len(self.target_names):
                raise ValueError(
                    f"{field}: {len(given)} numbers for {len(self.target_names)} targets; one each is allowed"
                )
        return self

    def input_columns(self) -> Mapping[str, Kind]:
        """Return the columns of the input, and those that the field `targets` names."""
        row: dict[str, Kind] = {name: kind for name, kind in self.columns.items() if kind != "number"}
        return {**row, **{name: "number" for name in self.target_names}}

    def target_columns(self) -> frozenset[str]:
        """Return the columns that the field `targets` names."""
        return frozenset(self.target_names)

    def fit_to_rows(self, numbers: Numbers) -> Self:
        """Return the task with mean and deviation of the training rows; a constant target has the deviation 1.

        Raises DataError for numbers that nothing can be computed with.
        """
        columns = [numbers(name) for name in self.target_names]
        mean = self.mean or tuple(mean_of(column) for column in columns)
        deviation = self.deviation or tuple(deviation_of(column) or 1.0 for column in columns)
        for name, found in zip(self.target_names, deviation, strict=True):
            if found < LEAST:
                raise DataError(
                    f"the numbers differ by {found:.3g} from their mean, too little to compute with: allowed is "
                    f"{LEAST:g} or more, so multiply the column",
                    where=f"column {name}",
                )
        return self.model_copy(update={"mean": mean, "deviation": deviation})

    def outputs(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Return the names of the targets."""
        return self.target_names

    def build(self, load: Loader, labels: Sequence[str]) -> nn.Module:
        """Return the base's own model, with a last layer that answers in the targets' units."""
        model = super().build(load, labels)
        parent, name, head = _last_linear(model, len(self.target_names))
        setattr(parent, name, ScaledLinear(head, self._mean(), self._deviation()))
        return model

    def merge(self, model: nn.Module) -> None:
        """Replace the last layer by a plain linear layer that contains the scale."""
        super().merge(model)
        parent, name, head = _last_linear(model, len(self.target_names))
        if isinstance(head, ScaledLinear):
            setattr(parent, name, head.plain())

    def target(self, row: Row, context: Context) -> Any:
        """Return the targets' numbers; None where one is missing."""
        numbers = [row.get(name) for name in self.target_names]
        return None if None in numbers else numbers

    def targets(self, values: Sequence[Any]) -> Tensor:
        """Return numbers (rows, targets) in fp64: fp32 does not tell unix times or large ids apart."""
        return torch.tensor(values, dtype=torch.float64)

    def loss(self, output: Any, batch: Batch, context: Context) -> tuple[Tensor, Tensor]:
        """Return the distance in standard deviations, averaged over targets and summed over rows, and the number of
        rows."""
        losses = self._losses(output.logits, batch["labels"]).float()
        return losses.sum(), torch.ones_like(losses).sum()

    def records(self, output: Any, batch: Batch, context: Context) -> list[Record]:
        """Return per row the true and predicted numbers (targets,), the loss, and as `error` the mean absolute error in
        standard deviations."""
        losses = self._losses(output.logits, batch["labels"]).tolist()
        predicted, true = (array.detach().double().cpu().numpy() for array in (output.logits, batch["labels"]))
        errors = (np.abs(predicted - true) / self._deviation().numpy()).mean(1).tolist()
        rows = zip(true, predicted, losses, errors, strict=True)
        return [{"true": t, "predicted": p, "loss": loss, "error": error} for t, p, loss, error in rows]

    def metrics(self, records: Sequence[Record], context: Context) -> dict[str, float]:
        """Return Spearman's and Pearson's correlation, R2, and mean absolute and root mean squared error in the
        targets' own units, as means over the targets; for several targets, also each one's (`spearman_angle`); and the
        loss.

        Correlations with constant numbers count as 0, and so does their R2.
        """
        true, predicted = stacked(records, "true", "predicted")
        each = {name: _fit(true[:, number], predicted[:, number]) for number, name in enumerate(self.target_names)}
        found = {
            metric: float(np.mean([fit[metric] for fit in each.values()])) for metric in each[self.target_names[0]]
        }
        if len(each) > 1:
            found |= {f"{metric}_{name}": value for name, fit in each.items() for metric, value in fit.items()}
        return found | {"loss": float(np.mean([record["loss"] for record in records]))}

    def findings(self, records: Sequence[Record], context: Context) -> Findings:
        """Return scores and quantiles of the residuals by target, and predicted numbers against true ones."""
        true, predicted = stacked(records, "true", "predicted")
        sides = {name: (true[:, at], predicted[:, at]) for at, name in enumerate(self.target_names)}
        return Findings(
            tables=(_fits(sides), _residuals(sides)),
            curves=tuple(_scatter(name, *side) for name, side in sides.items()),
        )

    def api_form(self) -> ApiForm:
        """Return the form of a classifier's scores."""
        return scores_form(self.modality, "none", wrapped=medium_of(self.modality).wraps_scores)

    def answers(self, output: Any, batch: Batch, context: Context) -> list[Answer]:
        """Return `values`, each target's number, and `scores`, the same in the form of classifiers' answers."""
        answers: list[Answer] = []
        for row in output.logits.detach().double().tolist():
            values = dict(zip(self.target_names, row, strict=True))
            scores = [{"label": name, "score": value} for name, value in values.items()]
            answers.append({"values": values, "scores": scores})
        return answers

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each row, (rows,), as the mean over targets."""
        rest = (logits.double() - labels.double()) / self._deviation().to(logits.device)
        each = F.huber_loss if self.distance == "huber" else F.mse_loss
        return each(rest, torch.zeros_like(rest), reduction="none").mean(1)

    def _mean(self) -> Tensor:
        return torch.tensor(self.mean or [0.0] * len(self.target_names), dtype=torch.float64)

    def _deviation(self) -> Tensor:
        return torch.tensor(self.deviation or [1.0] * len(self.target_names), dtype=torch.float64)


class ScaledLinear(nn.Linear):
    """A linear layer followed by a fixed scale, from standardised numbers to the targets' units, in fp64.

    The weights before the scale are trained: in the targets' units, a step of the same learning rate would be too
    small for prices and too large for shares.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, head: nn.Linear, mean: Tensor, deviation: Tensor) -> None:
        """Take the parameters of `head`; `mean` and `deviation`, (outputs,), are the task's and not stored in
        deltas."""
        super().__init__(head.in_features, head.out_features, bias=head.bias is not None)
        self.weight, self.bias = head.weight, head.bias
        self.register_buffer("mean", mean.double(), persistent=False)
        self.register_buffer("deviation", deviation.double(), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """Return numbers (..., outputs) in the targets' units."""
        return super().forward(input).double() * self.deviation + self.mean

    def plain(self) -> nn.Linear:
        """Return the same function as a plain linear layer in fp32.

        Raises Unsupported without a bias that could hold the mean, and for targets that fp32 cannot hold.
        """
        if self.bias is None and self.mean.any():
            raise Unsupported(
                "the base's own head has no bias, in which a plain layer would hold the mean of the targets: export a "
                "model trained with task.pooling: mean, or with 0 as task.mean of each target"
            )
        if problem := _beyond_fp32(self.mean, self.deviation):
            raise Unsupported(
                f"an exported model computes in fp32, which cannot hold its targets: {problem}. Use it by regraft.load "
                "or an endpoint, or train it on smaller numbers (such as the difference to the smallest one)"
            )
        found = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None).to(self.weight.device)
        with torch.no_grad():
            found.weight.copy_(self.weight * self.deviation.unsqueeze(1))
            if self.bias is not None:
                found.bias.copy_(self.bias * self.deviation + self.mean)
        return found


def _beyond_fp32(mean: Tensor, deviation: Tensor) -> str:
    """Return which mean and deviation fp32 does not hold to a hundredth of the deviation; "" if it holds all."""
    limits = torch.finfo(torch.float32)
    for center, spread in zip(mean.tolist(), deviation.tolist(), strict=True):
        # A thousand deviations from the mean must be finite, and a hundredth of one be told apart.
        largest = abs(center) + 1e3 * spread
        if largest > limits.max or spread < 1e3 * limits.tiny or largest * limits.eps > 1e-2 * spread:
            return f"their mean is {center:.6g}, their deviation {spread:.6g}"
    return ""


def _last_linear(model: nn.Module, outputs: int) -> tuple[nn.Module, str, nn.Linear]:
    """Return the parent of the head's last layer, the layer's name in it, and the layer.

    Raises Unsupported where the head does not end in a linear layer.
    """
    for name, layer in reversed(list(model.named_modules())):
        if isinstance(layer, nn.Linear) and layer.out_features == outputs:
            parent, _, leaf = name.rpartition(".")
            return model.get_submodule(parent), leaf, layer
    raise Unsupported(f"the head of {type(model).__name__} does not end in a linear layer", where="base")


def _fit(true: NDArray[np.float64], predicted: NDArray[np.float64]) -> dict[str, float]:
    varied = len(true) > 1 and true.min() < true.max()
    related = varied and predicted.min() < predicted.max()
    spearman = float(spearmanr(true, predicted).statistic) if related else 0.0
    true, predicted, unit = small_pair(true, predicted)
    related = related and predicted.min() < predicted.max() and true.min() < true.max()
    return {
        "spearman": spearman,
        "pearson": float(pearsonr(true, predicted).statistic) if related else 0.0,
        "r2": float(sklearn_metrics.r2_score(true, predicted)) if varied else 0.0,
        "mae": float(sklearn_metrics.mean_absolute_error(true, predicted)) * unit,
        "rmse": float(sklearn_metrics.root_mean_squared_error(true, predicted)) * unit,
    }


Sides = Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
"""True and predicted numbers (rows,) by target."""


def _fits(sides: Sides) -> Table:
    rows: list[tuple[str | int | float | None, ...]] = []
    for name, (true, predicted) in sides.items():
        fit = _fit(true, predicted)
        rows.append((name, len(true), mean_of(true), deviation_of(true), *fit.values()))
    columns = ("target", "rows", "mean", "deviation", "Spearman", "Pearson", "R2", "MAE", "RMSE")
    note = "Mean and deviation are those of the true numbers; a model that always answers the mean has R2 0."
    return Table("Targets", columns, tuple(rows), note)


def _residuals(sides: Sides) -> Table:
    rows: list[tuple[str | int | float | None, ...]] = []
    for name, (true, predicted) in sides.items():
        rest = predicted - true
        shares = np.quantile(rest, _SHARES).tolist()
        rows.append((name, mean_of(rest), deviation_of(rest), *shares, float(np.abs(rest).max())))
    columns = ("target", "mean", "deviation", *(f"{share:.0%}" for share in _SHARES), "largest")
    note = "Predicted minus true, in the target's unit; the percentages are quantiles."
    return Table("Residuals", columns, tuple(rows), note)


def _scatter(name: str, true: NDArray[np.float64], predicted: NDArray[np.float64]) -> Curve:
    order = np.argsort(true, kind="stable")
    shown = order[np.linspace(0, len(order) - 1, min(_POINTS, len(order))).round().astype(int)]
    points = tuple(zip(true[shown].tolist(), predicted[shown].tolist(), strict=True))
    low, high = float(true.min()), float(true.max())
    note = "" if len(shown) == len(order) else f"{len(shown)} of {len(order)} rows."
    title = f"{name}: predicted against true"
    return Curve(title, "true", "predicted", points, ideal=((low, low), (high, high)), note=note, joined=False)
