"""The pooling that the files of a sentence-transformers base declare."""

from __future__ import annotations

from typing import Any

from regraft.bases.locate import Base
from regraft.errors import BaseError
from regraft.store.bounded_json import parse_json

_CONFIG, _MODULES, _PROMPTS = "1_Pooling/config.json", "modules.json", "config_sentence_transformers.json"
_POOLED = frozenset({"Transformer", "Pooling", "Normalize"})
"""Modules after which a vector is the pooled states, or these with the length 1."""
_PREFIX = "pooling_mode_"
_KNOWN = {"mean": "mean", "mean_tokens": "mean", "cls": "cls", "cls_token": "cls"}


def declared_pooling(base: Base) -> str | None:
    """Return `mean` or `cls`, the first that is declared; None where neither is."""
    found = {_KNOWN.get(mode) for mode in _modes(base)}
    return next((name for name in ("mean", "cls") if name in found), None)


def pooling_problem(base: Base) -> str:
    """Return what makes the base's own vectors others than the mean or the first of its states; empty if nothing."""
    modules = _read(base, _MODULES)
    kinds = [str(one.get("type", "")).rpartition(".")[2] for one in modules if isinstance(one, dict)]
    if strange := sorted(set(kinds) - _POOLED):
        return f"{_MODULES} passes vectors through {' and '.join(strange)}"
    modes = _modes(base)
    if len(modes) > 1 or any(mode not in _KNOWN for mode in modes):
        return f"{_CONFIG} pools by {' and '.join(modes)}"
    prompt = _usual_prompt(_read(base, _PROMPTS))
    return f"{_PROMPTS} puts {prompt[:80]!r} before every text" if prompt else ""


def _usual_prompt(written: Any) -> str:
    """Return the prompt that is used where none is named; those that have to be named are left to the rows."""
    prompts = written.get("prompts") if isinstance(written, dict) else None
    return str(prompts.get(str(written.get("default_prompt_name"))) or "") if isinstance(prompts, dict) else ""


def _modes(base: Base) -> list[str]:
    """Return the modes that are on, as older and newer files name them."""
    config = _read(base, _CONFIG)
    if not isinstance(config, dict):
        return []
    named = config.get("pooling_mode")
    if isinstance(named, str | list):
        return [named] if isinstance(named, str) else [str(mode) for mode in named]
    return [name.removeprefix(_PREFIX) for name, on in config.items() if name.startswith(_PREFIX) and on]


def _read(base: Base, name: str) -> Any:
    path = base.path / name
    if not path.is_file():
        return {}
    try:
        return parse_json(path.read_bytes()) or {}
    except ValueError as error:
        raise BaseError(f"{name} cannot be read as JSON: {error}", where=base.reference) from None
