"""The user's own settings, which hold for all specs: one small YAML file, which need not exist."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError

from regraft.errors import RequestError, SpecError
from regraft.plugins import Frozen
from regraft.spec.problems import problems
from regraft.spec.yaml_words import parse_yaml
from regraft.store.bounded_yaml import MOST_BYTES

VARIABLE = "REGRAFT_SETTINGS"
USUAL = "~/.config/regraft/settings.yaml"


class UserSettings(Frozen):
    """Settings of a user on this machine."""

    bases: tuple[str, ...] = ()
    """Bases that `regraft auto` may choose among, as a spec writes them, the preferred ones first."""


def settings_file() -> Path:
    """Return the place of the settings: what REGRAFT_SETTINGS names, else `~/.config/regraft/settings.yaml`."""
    return Path(os.environ.get(VARIABLE) or USUAL).expanduser()


def user_settings() -> UserSettings:
    """Return the settings; the defaults where there is no file. Raises RequestError, or SpecError with all problems."""
    path = settings_file()
    try:
        with path.open(encoding="utf-8") as file:
            document = parse_yaml(file.read(MOST_BYTES + 1))
    except FileNotFoundError:
        return UserSettings()
    except (OSError, ValueError) as error:
        raise RequestError(f"is not readable as YAML: {error}", where=str(path)) from None
    document = {} if document is None else document
    if not isinstance(document, dict):
        raise RequestError("settings are a mapping of keys, as in bases: [org/name, /models/mine]", where=str(path))
    try:
        return UserSettings.model_validate(document)
    except ValidationError as error:
        raise SpecError(problems(error, UserSettings, document), str(path)) from None
