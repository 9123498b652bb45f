"""Bases that this machine makes: a registered model with its delta merged, and a configuration with random weights.

Their files are kept in the cache of bases. Their hash is made of what they are made of, so that it is the same on every
machine, whatever the last bits of its arithmetic are.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from transformers import PreTrainedModel

from regraft.bases import safety
from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.adapted import Adapted
from regraft.bases.delta import apply_delta
from regraft.bases.load import load_processor, quiet, random_model
from regraft.bases.locate import Base, check_hash, locate, rename_into_place
from regraft.bases.private_copy import FETCHED_COPIES, base_files, file_hash
from regraft.bases.tensor_files import read_tensors
from regraft.contracts import Method, Task
from regraft.errors import BaseError, RegraftError, Unsupported
from regraft.plugins import Plugin
from regraft.store.atomic_files import writing_locally
from regraft.store.machine_cache import cache_folder
from regraft.store.names import parse
from regraft.store.objects import ObjectStore
from regraft.store.registry import Registry, Version

MODEL = "model:"
RANDOM = "random:"
"""Followed by the seed, a colon and the base whose configuration is taken: `random:0:org/name`."""
MOST_ANCESTORS = 16
"""Longest chain of registered models, each the base of the next."""
_POOLING = "1_Pooling/config.json"
P = TypeVar("P", bound=Plugin)


def find_base(store: ObjectStore, reference: str, *, ancestors: int = 0) -> Base:
    """Find a base by its reference; `store` holds the models that `model:NAME@VERSION` names.

    Raises BaseError as `locate` does, NotFound for a model that does not exist, and Unsupported for one that no folder
    of transformers can hold. `ancestors` is the number of models that lead here.
    """
    if ancestors > MOST_ANCESTORS:
        raise BaseError(f"more than {MOST_ANCESTORS} models are each the base of the next: name an earlier one", "base")
    if reference.startswith(MODEL):
        return _registered(store, reference, ancestors)
    if reference.startswith(RANDOM):
        return _random(store, reference, ancestors)
    return locate(reference)


def base_named(store: ObjectStore, reference: str, expected_hash: str, why: str, *, where: str = "base") -> Base:
    """Find the base of a reference and check that its content is the expected one.

    Raises the errors of `find_base`, and WrongBase as `check_hash` does.
    """
    base = find_base(store, reference)
    check_hash(base, expected_hash, why, where=where)
    return base


def holds_configuration_alone(reference: str) -> bool:
    """Return whether a base is a folder with a configuration, and with no weights of any format."""
    folder = Path(reference).expanduser()
    if not (folder / "config.json").is_file():
        return False
    return not any(path.suffix in (".safetensors", *safety.PICKLES) for path in folder.iterdir())


def _registered(store: ObjectStore, reference: str, ancestors: int) -> Base:
    """Return a registered model as a base."""
    version = Registry(store).version(*parse(reference.removeprefix(MODEL)))
    meta = version.meta
    name, expected = str(meta["base"]["reference"]), str(meta["base"]["hash"])
    parent = find_base(store, name, ancestors=ancestors + 1)
    check_hash(parent, expected, f"{version} was trained on that one: put it back", where="base")
    made_of = {
        "base": parent.hash,
        "delta": meta["delta_sha256"],
        **{key: meta[key] for key in ("task", "method", "labels")},
    }
    found = _made(_identity("model", made_of), reference, lambda folder: _write_merged(version, parent, folder))
    earlier = parent.ancestors or (parent.reference,)
    return replace(found, reference=f"{MODEL}{version}", ancestors=(str(version), *earlier))


def load_version(store: ObjectStore, reference: str) -> Adapted:
    """Return the registered model `model:NAME@VERSION` on its base, with its own processor, in eval mode.

    Raises NotFound, and the errors of `find_base`.
    """
    version = Registry(store).version(*parse(reference.removeprefix(MODEL)))
    wanted = version.meta["base"]
    why = f"{version} was trained on that one: put it back"
    parent = base_named(store, str(wanted["reference"]), str(wanted["hash"]), why, where=str(version))
    with tempfile.TemporaryDirectory(prefix="regraft-") as scratch:
        files = Registry(store).fetch(version, Path(scratch))
        safety.check_harmless(files / "processor", str(version))
        # The class of a tokenizer may follow from the base's configuration.
        shutil.copyfile(parent.path / "config.json", files / "processor" / "config.json")
        modality = _member(Task, version.meta["task"], version).modality  # type: ignore[type-abstract]
        processor = load_processor(replace(parent, path=files / "processor"), modality)
        return _with_delta(version, parent, files, processor)


def _with_delta(version: Version, parent: Base, files: Path, processor: Any = None) -> Adapted:
    """Return a version on its base; `files` are the version's."""
    meta = version.meta
    task, method = _member(Task, meta["task"], version), _member(Method, meta["method"], version)  # type: ignore[type-abstract]
    labels, seed = tuple(meta["labels"]), int(meta["seed"])
    adapted = adapt(parent, Adaptation(task=task, method=method, labels=labels, seed=seed), processor)
    apply_delta(adapted, read_tensors(files / "delta.safetensors", str(version)))
    return adapted


def _write_merged(version: Version, parent: Base, folder: Path) -> None:
    """Write a version, its delta merged, as a folder of transformers with the version's own processor."""
    with tempfile.TemporaryDirectory(prefix="regraft-") as scratch:
        files = Registry(version.store).fetch(version, Path(scratch))
        adapted = _with_delta(version, parent, files)
        shutil.copytree(files / "processor", folder, dirs_exist_ok=True)
    task = adapted.task
    adapted.method.merge(adapted.model)
    task.merge(adapted.model)
    inside = getattr(adapted.model, adapted.anatomy.prefix or "base", None)
    model = adapted.model if isinstance(adapted.model, PreTrainedModel) else inside
    if not isinstance(model, PreTrainedModel):
        raise Unsupported(
            f"{version} cannot be a base: its task {task.key()} builds a {type(adapted.model).__name__}, for which "
            "transformers has no class. Name the base that it was trained on",
            where="base",
        )
    with quiet():
        model.save_pretrained(folder)
    if (parent.path / _POOLING).is_file():
        (folder / _POOLING).parent.mkdir(exist_ok=True)
        shutil.copyfile(parent.path / _POOLING, folder / _POOLING)


def _member(root: type[P], written: Mapping[str, Any], version: Version) -> P:
    """Return a version's task or method. Raises UnknownPlugin, and Unsupported where its fields do not fit."""
    try:
        found = root.lookup(str(written.get("type", "")))
        return found.model_validate({key: value for key, value in written.items() if key != "type"})
    except ValidationError as error:
        raise Unsupported(f"its {root.family} entry does not fit this regraft: {error}", where=str(version)) from error


def _random(store: ObjectStore, reference: str, ancestors: int) -> Base:
    """Return a base whose weights are initialised from a seed, with another base's configuration and processor."""
    seed, _, inner = reference.removeprefix(RANDOM).partition(":")
    if not seed.isdecimal() or not inner:
        raise BaseError(f"{reference!r} is written; allowed is {RANDOM}SEED:BASE", where="base")
    if holds_configuration_alone(inner):
        safety.check_harmless(Path(inner).expanduser(), inner)
        folder, pinned = Path(inner).expanduser(), inner
    else:
        model = find_base(store, inner, ancestors=ancestors + 1)
        folder, pinned = model.path, model.reference
        pinned += f"@{model.revision}" if model.revision and "@" not in pinned else ""
    names = [name for name in base_files(folder) if ".safetensors" not in name]
    contents = {name: file_hash(folder / name) for name in names}
    configuration = {name: contents[name] for name in ("config.json", _POOLING) if name in contents}
    processor = {name: found for name, found in contents.items() if name not in configuration}
    made_of = {"seed": int(seed), "configuration": configuration, "processor": processor}

    def write(into: Path) -> None:
        for name in names:
            (into / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(folder / name, into / name)
        with tempfile.TemporaryDirectory(prefix="regraft-") as scratch, quiet():
            random_model(into, inner, int(seed)).save_pretrained(scratch)
            for path in Path(scratch).iterdir():
                if ".safetensors" in path.name:  # the configuration stays as it was written
                    shutil.copyfile(path, into / path.name)

    found = _made(_identity("random", made_of), reference, write)
    return replace(found, reference=f"{RANDOM}{seed}:{pinned}")


def _identity(kind: str, made_of: Mapping[str, Any]) -> str:
    """Return the hash of a base that is made of other content."""
    return hashlib.sha256(json.dumps([kind, made_of], sort_keys=True).encode()).hexdigest()


def _made(identity: str, reference: str, write: Callable[[Path], None]) -> Base:
    """Return the base of that identity from the cache; `write` makes its files where they are missing or damaged."""
    cache = cache_folder(FETCHED_COPIES)
    final = cache / identity[:32]
    try:
        found = locate(str(final)) if final.is_dir() else None
    except BaseError:
        shutil.rmtree(final, ignore_errors=True)
        found = None
    if found is None:
        with writing_locally(cache):
            cache.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=f".{identity[:32]}-", dir=cache))
            try:
                _write_checked(partial, reference, write)
                rename_into_place(partial, final)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        found = locate(str(final))
    return replace(found, reference=reference, hash=identity, source=None, state="")


def _write_checked(folder: Path, reference: str, write: Callable[[Path], None]) -> None:
    try:
        write(folder)
    except BaseError as error:
        raise BaseError(error.message, where=reference) from error
    except RegraftError:
        raise
    safety.check(folder, reference)
