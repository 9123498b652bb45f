"""Progress events: one frozen dataclass per thing that a run, a search, an evaluation or a prediction reports.

An event becomes a JSON object where it leaves the process: a line of `runs/<run>/log.jsonl`, or of a submitted job's
log. `Event.document` and `Event.parse` are the two directions; the keys are the fields' names, and `event` is the kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar


@dataclass(frozen=True)
class Event:
    """Base class of all progress events."""

    event: ClassVar[str]
    """The kind of the event, under the key `event` of its document."""

    def document(self) -> dict[str, Any]:
        """Return the event as a JSON-able dict: `event` and every field, in the order of their definition.

        A field whose default is None is left out while it is None.
        """
        values = ((field, getattr(self, field.name)) for field in fields(self))
        return {
            "event": self.event,
            **{field.name: value for field, value in values if value is not None or field.default is MISSING},
        }

    @staticmethod
    def parse(document: Mapping[str, Any]) -> Event | None:
        """Return the event that `document` describes; None if its kind is unknown or one of its fields is missing.

        Keys that the kind does not have are ignored, so that a log of a later edition can still be read.
        """
        cls = KINDS.get(str(document.get("event")))
        if cls is None:
            return None
        found = {field.name: document[field.name] for field in fields(cls) if field.name in document}
        missing = [field for field in fields(cls) if field.default is MISSING and field.name not in found]
        return None if missing else cls(**found)


Progress = Callable[[Event], None]
"""A sink for progress events. It is called between two steps, so it should return at once."""


@dataclass(frozen=True)
class Note(Event):
    """A message for the user that no other event carries."""

    event = "note"
    message: str


def note(progress: Progress | None, message: str) -> None:
    """Send a message to a progress sink, if there is one."""
    if progress is not None:
        progress(Note(message))


class NotesOnce:
    """Passes events on, a note only once: one command may read the same rows for several runs."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress, self._passed = progress, set[str]()

    def __call__(self, event: Event) -> None:
        """Pass an event on, unless it is a note that was passed on before."""
        if isinstance(event, Note):
            if event.message in self._passed:
                return
            self._passed.add(event.message)
        if self._progress is not None:
            self._progress(event)


@dataclass(frozen=True)
class Started(Event):
    """Training begins, or begins again from a checkpoint."""

    event = "start"
    run: str
    model: str
    rows: int
    """Training rows."""
    steps: int
    """Steps of the complete run."""
    trainable: int
    """Parameters that training moves."""
    total: int
    """Parameters of the model."""
    workers: int


@dataclass(frozen=True)
class Resumed(Event):
    """Training continues from a checkpoint."""

    event = "resume"
    step: int
    checkpoint: str
    """Prefix of the checkpoint in the store."""


@dataclass(frozen=True)
class Stepped(Event):
    """Progress of a loop: an optimizer step of training, or a block of rows of batch prediction (`unit` is "row")."""

    event = "step"
    step: int
    """How many steps are done."""
    epoch: float | None = None
    loss: float | None = None
    norm: float | None = None
    """Norm of the gradient before clipping; None where it is not finite."""
    lr: float | None = None
    steps: int | None = None
    """How many there are in all."""
    rows_per_second: float | None = None
    left_s: float | None = None
    """Seconds to the end at this rate."""
    unit: str | None = None
    """What is counted; None: optimizer steps."""


@dataclass(frozen=True)
class EvaluationDone(Event):
    """The evaluation rows were measured during training."""

    event = "eval"
    step: int
    epoch: float
    metrics: Mapping[str, float]
    best: bool
    """Whether no earlier evaluation of the run was better."""


@dataclass(frozen=True)
class CheckpointWritten(Event):
    """A checkpoint was copied from the device; a thread writes it to the store while training continues."""

    event = "checkpoint"
    step: int
    bytes: int
    stall_s: float
    """Seconds for which training stood still."""


@dataclass(frozen=True)
class TrunkProgress(Event):
    """Outputs of the frozen part are being computed."""

    event = "trunk"
    rows: int
    """Rows that are done."""
    total: int


@dataclass(frozen=True)
class BaselineMeasured(Event):
    """A baseline was measured on the evaluation rows."""

    event = "baseline"
    name: str
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class MeasuredOnTest(Event):
    """The checkpoint to register was measured on the test rows, once, after everything was chosen."""

    event = "test"
    rows: int
    metrics: Mapping[str, float]
    intervals: Mapping[str, Any]
    """The 95 % interval of each metric, low and high; absent where none could be computed."""
    trial: str | None = None
    """The trial that is measured, where a search registers it."""


@dataclass(frozen=True)
class Registered(Event):
    """A model version was registered."""

    event = "register"
    model: str
    version: str
    trial: str | None = None
    """The trial that it comes from, where a search registers it."""


@dataclass(frozen=True)
class RunFailed(Event):
    """The last line of a run's log when an error ended the attempt; it is not passed to `progress`."""

    event = "end"
    kind: str
    """Class name of the error."""
    message: str


@dataclass(frozen=True)
class SearchStarted(Event):
    """A search begins or continues."""

    event = "search"
    search: str
    model: str
    score: Mapping[str, Any]
    """`name` of the deciding metric and `mode`, max or min."""
    trials: int | None
    """How many trials there will be; None where only time limits them."""
    rows: Mapping[str, int]
    """Number of rows by side: train and eval."""
    seconds: float | None
    """The search's budget of time; None without one."""


@dataclass(frozen=True)
class TrialUpdated(Event):
    """A trial began, was evaluated or ended; with the state of the complete search."""

    event = "trial"
    id: str
    status: str
    """waiting, running, finished, stopped or failed."""
    overrides: Mapping[str, Any]
    """Dotted fields of the spec with the trial's values."""
    epoch: float | None
    metrics: Mapping[str, float]
    """Those of its last evaluation; empty before the first."""
    best: Mapping[str, float] | None
    """Those of its best evaluation."""
    error: str | None
    """Why it failed, in one line."""
    seconds: float
    counts: Mapping[str, int]
    """Number of trials by status."""
    trials: int | None
    """How many trials there will be; None where only time limits them."""
    elapsed_s: float
    left_s: float | None
    """Seconds that are left of the budget; None without one."""
    leader: Mapping[str, Any] | None
    """`id`, `overrides` and deciding metric of the best trial so far."""


@dataclass(frozen=True)
class TrunkShared(Event):
    """The frozen part's outputs that trials of one worker shared since its last such event."""

    event = "shared"
    rows: int
    """Rows of the data, not since the last event but in all."""
    computed: int
    reused: int
    bytes: int
    where: str
    """memory, disk or recompute, of each cut."""
    why: str
    saved_s: float


@dataclass(frozen=True)
class BaselinesMeasured(Event):
    """A search's worker measured the baselines of the untouched base."""

    event = "baselines"
    baselines: Mapping[str, Mapping[str, float]]
    """Metrics by the baseline's name."""
    correct: str
    """The evaluation rows that the best baseline predicts correctly, as `training.evaluate.packed` writes them."""
    base: str | None = None
    """Which of a search's bases; None where all trials have one."""


@dataclass(frozen=True)
class RowsEvaluated(Event):
    """`regraft.evaluate` has answered another batch of rows."""

    event = "rows"
    rows: int
    """Rows that are done."""
    of: int
    what: str
    """The model that answers."""


@dataclass(frozen=True)
class Resampled(Event):
    """`regraft.evaluate` has drawn another resample for its intervals."""

    event = "resamples"
    resamples: int
    of: int


KINDS: dict[str, type[Event]] = {
    cls.event: cls
    for cls in (
        Note,
        Started,
        Resumed,
        Stepped,
        EvaluationDone,
        CheckpointWritten,
        TrunkProgress,
        BaselineMeasured,
        MeasuredOnTest,
        Registered,
        RunFailed,
        SearchStarted,
        TrialUpdated,
        TrunkShared,
        BaselinesMeasured,
        RowsEvaluated,
        Resampled,
    )
}
"""Every event by its kind."""
