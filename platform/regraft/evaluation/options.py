"""The options of an evaluation; imports nothing heavy, so that the command line can use it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


def default_folder(version: str, data: str) -> Path:
    """Return the folder of an evaluation of `name@version` on `data`: ./evaluation-NAME-VERSION-DATA."""
    text = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{version}-{Path(data).stem}").strip("-")
    return Path(f"evaluation-{text}")


def folder_of(versions: Sequence[str], data: str, written: str | Path | None) -> Path:
    """Return the folder of an evaluation: the one that is written, else one named by the first version and the data."""
    if written:
        return Path(written)
    more = f"-and-{len(versions) - 1}-more" if len(versions) > 1 else ""
    return default_folder(f"{versions[0]}{more}", data)


@dataclass(frozen=True)
class EpisodeOptions:
    """Options of a few-shot evaluation."""

    episodes: int = 600
    """Number of episodes; the seed of each is its number, from 0."""
    way: int = 5
    """Classes of an episode."""
    shot: int = 1
    """Rows of each class that the class mean is made of."""
    query: int = 15
    """Most rows of each class that are asked."""
    cosine: bool = False
    """Whether directions are compared, and not distances."""

    def document(self) -> dict[str, Any]:
        """Return the options as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of an evaluation, besides the model and its rows; the defaults are those of the command."""

    output: Path = Path("evaluation")
    """The folder that evaluation.json and evaluation.html are written into."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """The task's columns with their names in the files; columns not listed keep the names of training."""
    format: Mapping[str, Any] | str | None = None
    """The source that reads the files, as in a spec; None for that of training, `auto` for the file's suffix."""
    bad_rows: str = "fail"
    """`fail`, or `skip` to leave out rows that cannot be used."""
    resamples: int = 1000
    """Number of bootstrap resamples; 0 for no intervals."""
    seconds: float = 20.0
    """Time limit of the bootstrap in seconds."""
    worst: int = 12
    """Number of rows with the largest error that are shown."""
    against: str | None = None
    """Another model, `name[@alias|@version]`, evaluated on the same rows."""
    plugins: Sequence[str | Path] = ()
    """Files or folders with plugins that the models need."""
    base: str | None = None
    """The place of the model's base if it is not where the model's spec says."""
    device: str = "auto"
    """The device that the models run on."""
    episodes: EpisodeOptions | None = None
    """Episodes to draw in place of measuring each row once; None for the latter."""
