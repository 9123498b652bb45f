"""What travels with a submitted job, and what must be there already.

A command's words are rewritten for a folder that is packed for it: small local things below the current folder keep
their place in it, plugin folders go along, and everything else that is a local path must be seen by every node. Nothing
of the environment travels, and no file whose name begins with a dot.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from regraft.cluster.node_checks import versions
from regraft.cluster.visibility import MARKER, proof
from regraft.contracts import columns_of
from regraft.data.inputs import alternatives
from regraft.errors import RequestError
from regraft.spec.document import absolute
from regraft.spec.run import RunSpec
from regraft.tuning.driver.prepare import search_name
from regraft.tuning.validate import check_search
from regraft.version import VERSION

LETTER = "regraft-job.json"
"""What the client says of the job, beside the files that travelled."""
MOST_BYTES = 64 * 2**20
"""What travels with a job at most: it goes through the head's memory to every node."""
_PASSED_OVER = shutil.ignore_patterns(".*", "__pycache__", "*.pyc")
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:")


@dataclass
class Parcel:
    """A folder to be filled and sent, the words of the command in it, and the local paths that it relies on."""

    folder: Path
    words: list[str] = field(default_factory=list)
    about: dict[str, str] = field(default_factory=dict)
    """What the job's metadata say: the command, and the run or model that it is for."""
    shared: list[dict[str, str]] = field(default_factory=list)
    left: int = MOST_BYTES
    _markers: list[Path] = field(default_factory=list)
    _made: list[Path] = field(default_factory=list)

    def close(self) -> None:
        """Take away what was put into shared folders to be looked for."""
        for marker in self._markers:
            marker.unlink(missing_ok=True)
        for folder in self._made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def leave(self) -> None:
        """Leave them: a job that nobody follows any more may not have looked yet, and takes them away itself."""
        self._markers.clear()
        self._made.clear()

    def seal(self) -> None:
        """Write the letter that the job reads first."""
        letter = {"regraft": VERSION, "shared": self.shared}
        (self.folder / LETTER).write_text(json.dumps(letter), encoding="utf-8")

    def bring(self, written: str, where: str, *, around: bool = False) -> str:
        """A path as the job is to write it; what it names travels, or must be seen by every node.

        `around` takes the folder around a file, for files that name others beside them.
        Raises RequestError when the path does not exist here.
        """
        if not written or _URL.match(written):
            return written
        path = absolute(written)
        files = list(_named(path))
        if not files:
            raise RequestError(f"{written}: there is no such file or folder", where=where)
        here = Path.cwd()
        inside = all(file.is_relative_to(here) and file != here for file in files)
        if around and inside:
            files = [file.parent if file.is_file() and file.parent != here else file for file in files]
        if inside and (size := sum(_size(file) for file in set(files))) <= self.left:
            self.left -= size
            for file in sorted(set(files)):
                _copy(file, self.folder / file.relative_to(here))
            return os.path.relpath(path, here)
        for file in files:
            self.rely(str(file), where)
        return path

    def plugins(self, folders: Sequence[str]) -> list[str]:
        """Plugin folders, which always travel, by their names in the parcel."""
        return [self._plugin(absolute(folder)) for folder in folders]

    def _plugin(self, folder: str) -> str:
        path, here = Path(folder), Path.cwd()
        if path.is_relative_to(here) and path != here:
            name = str(path.relative_to(here))
        else:
            name = f"plugins-{hashlib.sha256(folder.encode()).hexdigest()[:8]}"
        size = _size(path)
        if size > self.left:
            raise RequestError(
                f"{folder} holds {size:,} bytes; what travels with a job is at most {MOST_BYTES:,}: keep "
                "code alone in it",
                where="plugins",
            )
        self.left -= size
        _copy(path, self.folder / name)
        return name

    def rely(self, path: str, where: str) -> None:
        """Have the job check that every node sees what is at `path` here."""
        self.shared.append({"where": where, "path": path, "proof": proof(path)})

    def keep(self, folder: str, where: str) -> str:
        """A place to write to: a URL, or a folder that every node must see, for which a marker is put there."""
        if _URL.match(folder):
            return folder
        path = Path(absolute(folder))
        missing = [part for part in (path, *path.parents) if not part.exists()]
        path.mkdir(parents=True, exist_ok=True)
        self._made += missing
        marker = path / f"{MARKER}{uuid4().hex}"
        marker.write_text(uuid4().hex)
        self._markers.append(marker)
        self.rely(str(marker), where)
        return str(path)


def train(parcel: Parcel, spec: RunSpec, *, fresh: bool) -> None:
    """Pack a training run."""
    _pack(parcel, "train", spec, spec.run, fresh=fresh)


def search(parcel: Parcel, spec: RunSpec, *, fresh: bool) -> None:
    """Pack a search; what is wrong with its space is told before anything is sent."""
    check_search(spec)
    _pack(parcel, "search", spec, search_name(spec), fresh=fresh)


def _pack(parcel: Parcel, command: str, spec: RunSpec, run: str, *, fresh: bool) -> None:
    """Pack a spec, and the command that it is for; `run` is the name by which the job is found again."""
    document: dict[str, Any] = spec.model_dump(mode="json")
    around = any(column.by_reference for column in columns_of(spec.task.input_columns()).values())
    data = document["data"]
    data["train"] = parcel.bring(spec.data.train, "data.train", around=around)
    if isinstance(spec.data.eval, str):
        data["eval"] = parcel.bring(spec.data.eval, "data.eval", around=around)
    if Path(spec.base).is_absolute():
        document["base"] = parcel.bring(spec.base, "base")
    document["plugins"] = parcel.plugins(spec.plugins)
    store = document["store"] = parcel.keep(spec.store, "store")
    name = f"{spec.name}.yaml"
    text = json.dumps(document, indent=1)  # JSON is YAML
    (parcel.folder / name).write_text(text, encoding="utf-8")
    # The store is told again: REGRAFT_STORE of the nodes would stand before the file's.
    parcel.words = [command, name, "--store", store, *(["--fresh"] if fresh else [])]
    parcel.about = {"command": command, "name": spec.name, "run": run, "store": store}


def predict(parcel: Parcel, args: Any, store: str) -> None:
    """Pack a batch prediction; `args` are the command's."""
    output = str(args.output)
    if not _URL.match(output) and not Path(output).expanduser().is_absolute():
        raise RequestError(
            f"{output} would be written into the job's own folder, which goes with it: write s3://bucket/key, or an "
            "absolute path that every node sees",
            where="output",
        )
    folder, _, name = output.rpartition("/")
    output = output if _URL.match(output) else f"{parcel.keep(folder or '/', 'output')}/{name}"
    words = ["predict", args.model, parcel.bring(args.input, "input"), "--output", output]
    words += ["--store", parcel.keep(store, "store")]
    words += [f"--{name}" for name in ("features", "fresh") if getattr(args, name)]
    for name in ("dtype", "format", "bad_rows", "workers"):
        if (value := getattr(args, name)) is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    for pair in args.columns:
        words += ["--columns", pair]
    for place in parcel.plugins(args.plugins):
        words += ["--plugins", place]
    if args.base is not None:
        words += ["--base", parcel.bring(args.base, "base") if Path(args.base).exists() else args.base]
    parcel.words = words
    parcel.about = {"command": "predict", "name": re.sub(r"[^a-z0-9._-]", "-", args.model.lower())[-40:], "out": output}


def doctor(parcel: Parcel, store: str, compute: str | None) -> None:
    """Pack the checks that are made from inside a cluster; a folder store is looked at as it is there."""
    parcel.words = ["doctor", "--inside", "--store", absolute(store), "--client", json.dumps(versions())]
    parcel.words += ["--compute", compute] if compute else []
    parcel.about = {"command": "doctor"}


def _named(path: str) -> Iterator[Path]:
    """The files and folders that a path of a spec means: itself, `x.npz#part`, both of `x.{en,de}`, a glob's."""
    if Path(path).exists():
        yield Path(path)
        return
    whole, sign, _ = path.rpartition("#")
    if sign and Path(whole).exists():
        yield Path(whole)
        return
    for name in alternatives(path).values() or (path,):
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
        shutil.copytree(source, target, ignore=_PASSED_OVER, dirs_exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
