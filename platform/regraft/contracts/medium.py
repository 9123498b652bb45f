"""Medium: what a base reads (text, images), and the processor that turns a row into its inputs."""

from __future__ import annotations

from abc import ABC
from collections.abc import Container, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from regraft.plugins import Plugin

if TYPE_CHECKING:
    from torch import Tensor


class PipelineValue(NamedTuple):
    """Code that makes a value for transformers' pipeline, for the README of an exported model."""

    imports: str
    makes: str
    """The line that makes it, with a comment on what the reader's own is."""
    name: str


class Medium(Plugin, ABC):
    """A medium. A task names its medium by the key (`Task.modality`); the base's processor is loaded by it."""

    family: ClassVar[str] = "media"
    noun: ClassVar[str]
    """The processor's name in messages, with its article: `a tokenizer`."""
    auto: ClassVar[str]
    """The transformers Auto class of the processor."""
    options: ClassVar[Mapping[str, Any]] = {}
    """Arguments of the Auto class's `from_pretrained`."""
    files: ClassVar[tuple[str, ...]]
    """Glob patterns, one of which a base's folder must hold: transformers would make up a processor without files."""
    column: ClassVar[str]
    """The kind of column that holds one value, when a base alone computes feature vectors."""
    pipeline_value: ClassVar[PipelineValue | None] = None
    """Code that makes a value for a pipeline; None where a column's example is one as it stands."""
    tokens: ClassVar[bool] = False
    """Whether the processor makes lists of numbers, of different lengths, out of many values at once."""
    in_timm: ClassVar[bool] = False
    """Whether the timm library writes the processor's settings into the base's configuration."""
    serial: ClassVar[bool] = False
    """Whether one processor must not be used by two threads at once."""
    averages: ClassVar[bool] = False
    """Whether the vector of a base without a pooler is the mean over its steps, and not the first of them."""
    libraries: ClassVar[tuple[str, ...]] = ()
    """Distributions that read its values, whose versions are part of what is kept under a name; Pillow always is."""
    wraps_scores: ClassVar[bool] = False
    """Whether the Inference API puts the scores for a single input into a list of one."""

    def found_in(self, folder: Path) -> bool:
        """Return whether a base's folder holds the files of such a processor."""
        return any(True for pattern in self.files for _ in folder.glob(pattern))

    def tensors(self, processor: Any, value: Any) -> dict[str, Tensor]:
        """Return one value as the model's inputs, without a dimension for rows; where the medium has no tokens.

        DataError for a value that cannot be decoded.
        """
        raise NotImplementedError

    def dummy_inputs(self, config: Any, taken: Container[str]) -> Iterator[dict[str, Tensor]]:
        """Yield small inputs of one row for a model whose forward pass takes arguments of the names `taken`.

        They are made from the base's configuration alone; its blocks are found by them. Models that take tokens or
        pixels need none.
        """
        return iter(())


@cache
def medium_of(modality: str) -> Medium:
    """Return the medium of that key. UnknownPlugin names the nearest and the known ones."""
    return Medium.lookup(modality)()
