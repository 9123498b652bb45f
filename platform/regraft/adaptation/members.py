"""The members of the two families, found by listing their folders."""

from __future__ import annotations

from regraft.adaptation import corrections as corrections_folder
from regraft.adaptation import validators as validators_folder
from regraft.adaptation.correction import Correction
from regraft.adaptation.validator import Validator
from regraft.plugins import classes_in


def validators() -> dict[str, Validator]:
    """Return a validator of each file, by name."""
    return {item.name: item() for item in classes_in(validators_folder, Validator)}


def corrections() -> dict[str, Correction]:
    """Return a correction of each file, by name."""
    return {item.name: item() for item in classes_in(corrections_folder, Correction)}
