"""The package that travels with a submitted job, and the paths that must exist on the cluster already.

The arguments of a command are rewritten for a folder that is packed for it. Small local files below the current folder
keep their place in it, and plugin folders travel along. Every node must see every other local path. Nothing of the
environment travels, and no file whose name begins with a dot.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from regraft.cluster.node_checks import versions
from regraft.cluster.visibility import MARKER, proof, seen_at
from regraft.contracts import Task, columns_of
from regraft.data.inputs import expand_braces
from regraft.errors import RequestError
from regraft.spec.document import absolute
from regraft.spec.run import RunSpec
from regraft.spec.search_bases import bases_of, with_bases
from regraft.store.objects import open_store
from regraft.tuning.driver.prepare import search_name
from regraft.tuning.validate import check_search
from regraft.version import VERSION

JOB_FILE = "regraft-job.json"
"""A file beside those that travelled: the client's version, and the paths that every node must see."""
MOST_BYTES = 64 * 2**20
"""Most bytes that travel with a job: they pass through the head's memory to every node."""
_IGNORED = shutil.ignore_patterns(".*", "__pycache__", "*.pyc")
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:")


@dataclass
class JobPackage:
    """A folder to fill and send, the arguments of its command, and the local paths that the command relies on."""

    folder: Path
    arguments: list[str] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    """Metadata of the job: the command, and the run or model that it is for."""
    shared: list[dict[str, str]] = field(default_factory=list)
    """Paths that every node must see: `where` (the field that names one), `path` and `proof`."""
    bytes_left: int = MOST_BYTES
    _markers: list[Path] = field(default_factory=list)
    _made: list[Path] = field(default_factory=list)

    def close(self) -> None:
        """Delete the marker files from shared folders, and the folders that were made for them."""
        for marker in self._markers:
            marker.unlink(missing_ok=True)
        for folder in self._made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def detach(self) -> None:
        """Let `close` keep the markers: the job may not have looked for them yet, and deletes them itself."""
        self._markers.clear()
        self._made.clear()

    def write_job_file(self) -> None:
        """Write the file that the job reads first."""
        document = {"regraft": VERSION, "shared": self.shared}
        (self.folder / JOB_FILE).write_text(json.dumps(document), encoding="utf-8")

    def add_path(self, written: str, where: str, *, around: bool = False) -> str:
        """Pack what a path names, or require that every node sees it, and return the path for the job to use.

        `around` packs the folder around a file, for files that name others beside them.
        Raises RequestError if the path does not exist here.
        """
        if not written or _URL.match(written):
            return written
        path = absolute(written)
        files = list(_files_of(path))
        if not files:
            raise RequestError(f"{written}: there is no such file or folder", where=where)
        here = Path.cwd()
        inside = all(file.is_relative_to(here) and file != here for file in files)
        if around and inside:
            files = [file.parent if file.is_file() and file.parent != here else file for file in files]
        if inside and (size := sum(_size(file) for file in set(files))) <= self.bytes_left:
            self.bytes_left -= size
            for file in sorted(set(files)):
                _copy(file, self.folder / file.relative_to(here))
            return os.path.relpath(path, here)
        for file in files:
            self.require_visible(str(file), where)
        return path

    def add_plugins(self, folders: Sequence[str]) -> list[str]:
        """Pack plugin folders, which always travel, and return their names in the package."""
        return [self._add_plugin(absolute(folder)) for folder in folders]

    def _add_plugin(self, folder: str) -> str:
        path, here = Path(folder), Path.cwd()
        if path.is_relative_to(here) and path != here:
            name = str(path.relative_to(here))
        else:
            name = f"plugins-{hashlib.sha256(folder.encode()).hexdigest()[:8]}"
        size = _size(path)
        if size > self.bytes_left:
            raise RequestError(
                f"{folder} holds {size:,} bytes; at most {MOST_BYTES:,} travel with a job: keep code alone in it",
                where="plugins",
            )
        self.bytes_left -= size
        _copy(path, self.folder / name)
        return name

    def require_visible(self, path: str, where: str) -> None:
        """Make the job check that every node sees at `path` what this machine sees."""
        self.shared.append({"where": where, "path": path, "proof": proof(path)})

    def output_folder(self, folder: str, where: str) -> str:
        """Return a place to write to: a URL, or a folder that every node must see.

        A marker file is put into a folder, which the job looks for on every node.
        """
        if _URL.match(folder):
            return folder
        path = Path(absolute(folder))
        if where == "store" and seen_at(str(path)) != path:  # the mark that is there serves as well as one of ours
            return self.existing_store(folder)
        missing = [part for part in (path, *path.parents) if not part.exists()]
        path.mkdir(parents=True, exist_ok=True)
        self._made += missing
        marker = path / f"{MARKER}{uuid4().hex}"
        marker.write_text(uuid4().hex)
        self._markers.append(marker)
        self.require_visible(str(marker), where)
        return str(path)

    def existing_store(self, store: str, *, needed: bool = True) -> str:
        """Return a store to read from: a URL, or a folder that every node must see, into which nothing is put.

        Raises RequestError for a folder that does not exist and is `needed`.
        """
        if _URL.match(store):
            return store
        path = absolute(store)
        if not Path(path).is_dir():
            if needed:
                raise RequestError(
                    f"{store}: there is no such folder, and so no store: name the one that holds the model, by "
                    "--store or REGRAFT_STORE",
                    where="store",
                )
            return path
        self.require_visible(str(seen_at(path)), "store")
        return path


def pack_train(package: JobPackage, spec: RunSpec, **switches: bool) -> None:
    """Pack a training run; `switches` are `fresh` and `same`, as the command has them."""
    _pack(package, "train", spec, spec.run, switches=switches)


def pack_search(package: JobPackage, spec: RunSpec, **switches: bool) -> None:
    """Pack a search, as `pack_train` does; SpecError or RequestError for a wrong space, before anything is sent."""
    check_search(spec)
    _pack(package, "search", spec, search_name(spec), switches=switches)


def _pack(package: JobPackage, command: str, spec: RunSpec, run: str, *, switches: Mapping[str, bool]) -> None:
    """Pack a spec and its command; `run` is the name that later commands look up."""
    document: dict[str, Any] = spec.model_dump(mode="json")
    _pack_data(package, spec.task, document["data"], "data")
    for number, stage in enumerate(spec.stages):
        _pack_data(package, stage.task, document["stages"][number]["data"], f"stages.{number}.data")
        if stage.base is not None and Path(stage.base).is_absolute():
            document["stages"][number]["base"] = package.add_path(stage.base, f"stages.{number}.base")
    searched = bases_of(spec.search) if command == "search" else ()
    packed = {base: package.add_path(base, "base") for base in (spec.base, *searched) if Path(base).is_absolute()}
    document["base"] = packed.get(spec.base, spec.base)
    if searched:
        document["search"] = _with_packed(spec, packed)
    document["plugins"] = package.add_plugins(spec.plugins)
    new = _begin_folder(spec.store)
    store = document["store"] = package.output_folder(spec.store, "store")
    name = f"{spec.name}.yaml"
    text = json.dumps(document, indent=1)  # JSON is YAML
    (package.folder / name).write_text(text, encoding="utf-8")
    # --store repeats the spec's store: the nodes' REGRAFT_STORE takes precedence over the file's.
    switches = {**switches, "create": new}
    package.arguments = [command, name, "--store", store, *(f"--{switch}" for switch, on in switches.items() if on)]
    package.metadata = {"command": command, "name": spec.name, "run": run, "store": store}


def _with_packed(spec: RunSpec, packed: Mapping[str, str]) -> dict[str, Any]:
    """Return the section `search` with the places of packed bases."""
    search = with_bases(spec.search, lambda base: packed.get(base, base))
    return search.model_dump(mode="json") if search is not None else {}


def _pack_data(package: JobPackage, task: Task, data: dict[str, Any], where: str) -> None:
    """Pack the files of a section `data`, which is changed in place."""
    around = any(column.by_reference for column in columns_of(task.input_columns()).values())
    for side in ("train", "eval", "test", "target", "target_labels"):
        if isinstance(data.get(side), str):
            data[side] = package.add_path(data[side], f"{where}.{side}", around=around)


def _begin_folder(store: str) -> bool:
    """Return whether a store's folder is new, so that the job finds only what is put there for it to see.

    Raises RequestError for a folder that exists and holds no store.
    """
    if _URL.match(store):
        return False
    open_store(store).begin()
    return not Path(absolute(store)).exists()


def pack_predict(package: JobPackage, args: Any, store: str) -> None:
    """Pack a batch prediction; `args` are those of the command line."""
    output = str(args.output)
    if not _URL.match(output) and not Path(output).expanduser().is_absolute():
        raise RequestError(
            f"{output} would be written into the job's own folder, which is deleted with it: write s3://bucket/key, or "
            "an absolute path that every node sees",
            where="output",
        )
    folder, _, name = output.rpartition("/")
    output = output if _URL.match(output) else f"{package.output_folder(folder or '/', 'output')}/{name}"
    arguments = ["predict", args.model, package.add_path(args.input, "input"), "--output", output]
    arguments += ["--store", package.existing_store(store, needed=not args.features)]
    arguments += [f"--{name}" for name in ("features", "fresh") if getattr(args, name)]
    limits = ("budget_seconds", "budget_memory", "budget_store")
    for name in ("dtype", "format", "bad_rows", "workers", *limits):
        if (value := getattr(args, name)) is not None:
            arguments += [f"--{name.replace('_', '-')}", str(value)]
    for pair in args.columns:
        arguments += ["--columns", pair]
    for place in package.add_plugins(args.plugins):
        arguments += ["--plugins", place]
    if args.base is not None:
        arguments += ["--base", package.add_path(args.base, "base") if Path(args.base).exists() else args.base]
    name = re.sub(r"[^a-z0-9._-]", "-", args.model.lower())[-40:]
    package.arguments, package.metadata = arguments, {"command": "predict", "name": name, "out": output}


def pack_doctor(package: JobPackage, store: str, compute: str | None) -> None:
    """Pack the checks that are made inside a cluster; the path of a folder store is checked there, unchanged."""
    package.arguments = ["doctor", "--inside", "--store", absolute(store), "--client", json.dumps(versions())]
    package.arguments += ["--compute", compute] if compute else []
    package.metadata = {"command": "doctor"}


def _files_of(path: str) -> Iterator[Path]:
    """Yield the files and folders that a spec's path means: itself, `x.npz#part`, both of `x.{en,de}`, a glob's."""
    if Path(path).exists():
        yield Path(path)
        return
    file, sign, _ = path.rpartition("#")
    if sign and Path(file).exists():
        yield Path(file)
        return
    for name in expand_braces(path).values() or (path,):
        if Path(name).exists():
            yield Path(name)
        else:
            yield from (Path(found) for found in sorted(glob.glob(name, recursive=True)))


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=_IGNORED, dirs_exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
