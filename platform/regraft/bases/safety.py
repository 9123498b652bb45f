"""Safety checks of a base before it is loaded: no code, pickles, truncated files, or links out of its folder."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from regraft.bases.safetensors_header import find_problem, unique_keys
from regraft.bases.timm import foreign_file
from regraft.errors import BaseError

MAX_JSON_BYTES = 64 * 2**20
"""The largest configuration that is read, in bytes."""
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
"""The configuration of an adapter, as peft's save_pretrained writes it."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack")
_TRICKS = re.compile(r"\.\s*__\w+|\[\s*['\"]__\w+|\battr\s*\(|\{%-?\s*(?:include|import|from|extends)\b")
_CONVERT = "convert it once with model.save_pretrained(folder), which writes safetensors, and name that folder"


def check(folder: Path, reference: str) -> None:
    """Raise BaseError, naming the file, unless the folder is a complete and harmless base."""
    _refuse_adapter(folder, reference)
    if not (folder / "config.json").is_file():
        raise BaseError(
            f"{folder} holds no config.json; allowed are folders as transformers' save_pretrained writes them",
            where=reference,
        )
    check_harmless(folder, reference)
    _weights(folder, reference)


def _refuse_adapter(folder: Path, reference: str) -> None:
    """Raise BaseError for a PEFT adapter, which is no base: its weights are changes of another one's.

    transformers itself would load that other base in place of the weights beside an adapter's configuration.
    """
    inside = [folder / ADAPTER, *sorted(folder.glob(f"*/{ADAPTER}"))]
    found = next((path for path in inside if path.is_file()), None)
    if found is None or (found.parent != folder and (folder / "config.json").is_file()):
        return
    try:
        document = json.loads(_read(found, reference))
    except (ValueError, RecursionError):
        document = {}
    document = document if isinstance(document, dict) else {}
    of = document.get("base_model_name_or_path") or document.get("model_name")
    base, kind = (f" of {of}" if of else ""), document.get("peft_type") or "PEFT"
    if weights(folder) and (folder / "config.json").is_file() and not list(folder.glob("adapter_model.*")):
        raise BaseError(
            f"holds {ADAPTER}{base} beside the weights of a complete model, and transformers would load that base in "
            f"their place: remove {ADAPTER} if the model is merged",
            where=reference,
        )
    other = f"or name {of}, the base inside, and train a new adapter" if of else "or name the base that it was made of"
    raise BaseError(
        f"this is a PEFT adapter ({kind}){base}, not a complete model: load it with peft's "
        "AutoPeftModel...from_pretrained, call merge_and_unload() and save_pretrained(folder), save the tokenizer "
        f"there too, and name that folder; {other}",
        where=reference,
    )


def check_harmless(folder: Path, reference: str) -> None:
    """Raise BaseError when a folder of a base, or of a version's tokenizer, is not safe to load.

    It is not when a file is code, asks to run code, or is a link out of the folder.
    """
    for path in _everything(folder):
        inside = path.relative_to(folder)
        if path.is_symlink() and not _stays(path, folder):
            raise BaseError(f"{inside} is a link out of the folder: put the file itself there", where=reference)
        if path.suffix == ".py":
            raise BaseError(f"{inside} is code, and no base's code is ever run: remove it", where=reference)
    for path in sorted(folder.rglob("*config*.json")):
        _no_code(path, path.relative_to(folder), reference)
    for path in sorted(folder.rglob("*.jinja")):
        _no_tricks(_read(path, reference), str(path.relative_to(folder)), reference)


def weights(folder: Path) -> list[Path]:
    """Return the base's weight files, sorted by name."""
    return sorted(path for path in folder.glob("*.safetensors") if path.is_file())


def _everything(folder: Path) -> Iterator[Path]:
    for at, folders, files in os.walk(folder):
        for name in (*folders, *files):
            yield Path(at) / name


def _stays(link: Path, folder: Path) -> bool:
    """Return whether a link ends in the folder, or in the blobs beside it if it is a snapshot of the hub's cache."""
    target = link.resolve()
    cache = folder.resolve().parent
    allowed = [folder.resolve(), *([cache.parent / "blobs"] if cache.name == "snapshots" else [])]
    return any(target.is_relative_to(root) for root in allowed)


def _no_code(path: Path, inside: Path, reference: str) -> None:
    text = _read(path, reference)
    try:
        document = json.loads(text, object_pairs_hook=unique_keys)
        key = next(_code_keys(document), None)
        templates = list(_templates(document))
    except (OSError, ValueError, RecursionError) as error:
        raise BaseError(f"{inside} cannot be read as JSON: {error}", where=reference) from None
    if str(inside) == "config.json" and not isinstance(document, dict):
        raise BaseError(f"{inside} holds no JSON object", where=reference)
    if key is not None:
        raise BaseError(
            f"{inside} asks to run its own code ({key}), which is never done; allowed are architectures that "
            "transformers itself has",
            where=reference,
        )
    if elsewhere := foreign_file(document):
        raise BaseError(
            f"{inside} names {elsewhere}, files that are not this base's own: remove that setting", where=reference
        )
    for template in templates:
        _no_tricks(template, str(inside), reference)


def _read(path: Path, reference: str) -> str:
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise BaseError(f"{path.name} has {size:,} bytes; allowed are {MAX_JSON_BYTES:,}", where=reference)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BaseError(f"{path.name} cannot be read as text: {error}", where=reference) from None


def _no_tricks(template: str, inside: str, reference: str) -> None:
    """Raise BaseError for a chat template that uses Python's internals or other files; writing text needs neither."""
    if found := _TRICKS.search(template):
        raise BaseError(f"the template in {inside} holds {found[0]!r}, which no template needs", where=reference)


def _templates(document: object) -> Iterator[str]:
    if isinstance(document, dict):
        for key, value in document.items():
            if key in ("chat_template", "template") and isinstance(value, str):
                yield value
            else:
                yield from _templates(value)
    elif isinstance(document, list):
        for value in document:
            yield from _templates(value)


def _code_keys(document: object, at: str = "") -> Iterator[str]:
    if isinstance(document, dict):
        for key, value in document.items():
            if key in ("auto_map", "trust_remote_code", "custom_pipelines") and value:
                yield f"{at}{key}"
            yield from _code_keys(value, f"{at}{key}.")
    elif isinstance(document, list):
        for number, value in enumerate(document):
            yield from _code_keys(value, f"{at}{number}.")


def _weights(folder: Path, reference: str) -> None:
    files = weights(folder)
    if not files:
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        holds = f"only {pickles[0]}, which is not read because loading it can run code" if pickles else "no weights"
        raise BaseError(f"no *.safetensors here, {holds}: {_CONVERT}", where=reference)
    if (folder / INDEX).is_file():
        _index(folder, reference)
    elif not (folder / "model.safetensors").is_file():
        names = ", ".join(path.name for path in files)
        raise BaseError(f"holds {names} but neither model.safetensors nor {INDEX}: {_CONVERT}", where=reference)
    for path in files:
        if wrong := find_problem(path):
            raise BaseError(f"{path.name} {wrong}: fetch it again", where=reference)


def _index(folder: Path, reference: str) -> None:
    try:
        shards = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise BaseError(f"{INDEX} cannot be read: {error!r}", where=reference) from None
    for shard in shards:
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise BaseError(f"{INDEX} names {shard!r}; allowed are safetensors files beside it", where=reference)
        if not (folder / shard).is_file():
            raise BaseError(f"{INDEX} names {shard}, which is missing: fetch it again", where=reference)
