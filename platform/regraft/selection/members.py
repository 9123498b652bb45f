"""The members of the family of scores, found by listing their folder."""

from __future__ import annotations

from regraft.plugins import classes_in
from regraft.selection import scores as scores_folder
from regraft.selection.score import FeatureScore


def scores() -> dict[str, FeatureScore]:
    """Return a score of each file, by name."""
    return {item.name: item() for item in classes_in(scores_folder, FeatureScore)}
