"""Source of folders that the `datasets` library saved (`save_to_disk`), read without that library."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from regraft.contracts import Raw, Source
from regraft.data.folders import is_saved_dataset
from regraft.data.tables import document_features, plain_rows, refuse_extensions
from regraft.errors import DataError


class SavedDataset(Source):
    """A folder that `save_to_disk` of the `datasets` library wrote: Arrow streams beside two JSON documents.

    The rows have the data set's own columns; class numbers become names. A folder with several splits is read by the
    name of one: `data.train: folder#train`.
    """

    part: str | None = None
    """The split that is read, for a folder with several."""

    def accepts(self, path: Path) -> bool:
        """Accept a folder with `state.json` or `dataset_dict.json`."""
        return is_saved_dataset(path)

    def read(self, path: Path) -> Iterator[Raw]:
        """Yield rows by their number from 1, in the order of the files that `state.json` lists."""
        folder = self._split(path)
        features = document_features(_document(folder / "dataset_info.json", path))
        number = 0
        for name in _files(folder, path):
            try:
                with pa.memory_map(str(folder / name)) as mapped, pa.ipc.open_stream(mapped) as reader:
                    refuse_extensions(reader.schema, folder / name)
                    for batch in reader:
                        for values in plain_rows(batch, features):
                            number += 1
                            yield Raw(values, f"{folder}:{number}")
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                message = " ".join(str(error).split())
                raise DataError(f"is not readable as an Arrow stream: {message}", f"{folder / name}") from None

    def _split(self, path: Path) -> Path:
        """Return the folder of the split that is read."""
        if not is_saved_dataset(path):
            raise DataError("holds neither state.json nor dataset_dict.json, so `datasets` did not save it", str(path))
        if (path / "state.json").is_file():
            if self.part:
                raise DataError(f"is one data set without splits; {self.part!r} is written: leave it out", str(path))
            return path
        written = _document(path / "dataset_dict.json", path).get("splits")
        splits = [str(name) for name in written] if isinstance(written, list) else []
        if self.part not in splits:
            problem = f"there is no {self.part!r}" if self.part else "choose one of them"
            raise DataError(
                f"holds the splits {', '.join(splits) or 'of no name'}; {problem}: "
                f"write {path}#{splits[0] if splits else 'train'}",
                str(path),
            )
        return path / self.part


def _files(folder: Path, path: Path) -> list[str]:
    """Return the names of one split's Arrow files in order. Raises DataError for files outside the folder."""
    listed = _document(folder / "state.json", path).get("_data_files")
    names = [item.get("filename") for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise DataError("names no data files of its own in _data_files", str(folder / "state.json"))
    return [str(name) for name in names]


def _document(file: Path, path: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"lacks {file.relative_to(path)}: save the data set again", str(path)) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not JSON: {error}", str(file)) from None
    if not isinstance(document, dict):
        raise DataError("is JSON, but no object", str(file))
    return document
