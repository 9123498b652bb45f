"""Files are known by content: hashed and checked once while they are unchanged, and never used unnoticed after."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from regraft.columns.files import content
from regraft.columns.files.content import Content, ContentCache, content_cache, examined
from regraft.columns.files.remote import fetched_ahead
from regraft.columns.image import ImageColumn
from regraft.contracts import Raw
from regraft.contracts.column import BadCell
from regraft.contracts.file_ref import FileBytes, FileRef
from regraft.data.cell_parsing import ColumnMapping
from regraft.errors import DataError
from regraft.media.pixels.images import class_numbers, open_rgb

WRITERS = {"png": "PNG", "jpg": "JPEG", "gif": "GIF", "bmp": "BMP", "webp": "WEBP", "tif": "TIFF", "ppm": "PPM"}


def picture(kind: str = "PNG", seed: int = 0, size: tuple[int, int] = (40, 30)) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, kind)
    return file.getvalue()


def settled(path: Path, age: float = 60) -> None:
    """Give a file an age at which its times are trusted; the change time follows the clock, so that is moved too."""
    then = time.time() - age
    os.utime(path, (then, then))


class Counting:
    """A check that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, body: bytes) -> str:
        self.calls += 1
        return ""


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust times at once."""
    monkeypatch.setattr(content, "SETTLED_S", -1.0)


@pytest.mark.usefixtures("trusted")
def test_a_file_is_read_once_by_all_caches_of_a_machine(tmp_path: Path) -> None:
    file, check = tmp_path / "a.png", Counting()
    file.write_bytes(picture())
    first = ContentCache(tmp_path / "cache")
    found = examined(str(file), first, "m", check)
    file_moved_under_the_cache = file.stat().st_ino
    assert examined(str(file), first, "m", check) == found
    first.flush()
    second = ContentCache(tmp_path / "cache")
    os.chmod(tmp_path, 0o700)
    assert examined(str(file), second, "m", check) == found and check.calls == 1
    assert file.stat().st_ino == file_moved_under_the_cache


@pytest.mark.usefixtures("trusted")
def test_another_way_of_checking_checks_again_but_equal_content_is_checked_once(tmp_path: Path) -> None:
    cache, check = ContentCache(tmp_path / "cache"), Counting()
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"same")
        examined(str(tmp_path / name), cache, "m", check)
    assert check.calls == 1
    examined(str(tmp_path / "a"), cache, "another", check)
    assert check.calls == 2


@pytest.mark.usefixtures("trusted")
def test_other_bytes_of_the_same_name_size_and_time_are_seen(tmp_path: Path) -> None:
    file, cache = tmp_path / "a", ContentCache(tmp_path / "cache")
    file.write_bytes(b"first")
    before = file.stat()
    one = examined(str(file), cache, "m", Counting())
    time.sleep(0.02)  # longer than a tick of the file system's clock
    with file.open("r+b") as opened:
        opened.write(b"other")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns and file.stat().st_ino == before.st_ino
    assert examined(str(file), cache, "m", Counting()).sha256 != one.sha256


def test_a_file_that_was_just_written_is_not_remembered(tmp_path: Path) -> None:
    file, cache = tmp_path / "a", ContentCache(tmp_path / "cache")
    file.write_bytes(b"first")
    examined(str(file), cache, "m", Counting())
    tag, _ = content.local_tag(str(file))
    assert cache.find(str(file), tag, "m") is None


def test_a_cache_without_a_place_still_remembers(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = ContentCache(tmp_path / "file" / "cache")
    cache.keep("a", "tag", Content("00", 2, ""))
    cache.keep_verdict("00", "m", "")
    assert cache.find("a", "tag", "m") == Content("00", 2, "")
    cache.flush()
    assert cache.find("a", "tag", "m") == Content("00", 2, "")


def test_a_damaged_cache_is_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "files.sqlite").write_bytes(b"no database" * 100)
    cache = ContentCache(tmp_path)
    cache.keep("a", "tag", Content("00", 2, ""))
    cache.keep_verdict("00", "m", "")
    assert cache.find("a", "tag", "m") == Content("00", 2, "")


def test_a_reference_keeps_its_hash_through_snapshots_and_processes() -> None:
    column = ImageColumn()
    known = FileRef("/a.png", "ab" * 32, 7)
    for copy in (column.restored(column.stored(known)), pickle.loads(pickle.dumps(known))):
        assert isinstance(copy, FileRef)
        assert (copy, copy.sha256, copy.size) == ("/a.png", "ab" * 32, 7)
    by_name = column.restored({"path": "/a.png", "bytes": None})
    assert isinstance(by_name, FileRef) and not by_name.sha256
    assert column.restored(column.stored(b"xyz")) == b"xyz"


@pytest.mark.parametrize("use", [open_rgb, class_numbers])
def test_a_picture_that_changed_after_it_was_read_is_named_and_not_used(tmp_path: Path, use: object) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(picture())
    known = ImageColumn().read_cell(str(file), "/")
    assert isinstance(known, FileRef) and known.sha256
    if use is open_rgb:
        assert open_rgb(known).size == (30, 40)
    file.write_bytes(picture(seed=1))
    with pytest.raises(DataError, match=r"a\.png holds other bytes than when the data were read"):
        use(known)  # type: ignore[operator]
    file.unlink()
    with pytest.raises(DataError, match=r"a\.png cannot be read any more"):
        use(known)  # type: ignore[operator]


def test_the_same_bytes_have_one_identity_wherever_they_are(tmp_path: Path) -> None:
    column, body = ImageColumn(), picture()
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(body)
    identities = [column.identity(column.read_cell(cell, str(tmp_path))) for cell in ("a.png", "b.png", body)]
    assert identities[0] == identities[1] == identities[2]
    (tmp_path / "b.png").write_bytes(picture(seed=1))
    assert column.identity(column.read_cell("b.png", str(tmp_path))) != identities[0]


def cut_and_flipped(body: bytes, draw: np.random.Generator) -> list[bytes]:
    """Return ten pieces from the beginning, and ten copies with a flipped bit."""
    made = [body[: round(len(body) * (number + 1) / 11)] for number in range(10)]
    for at in draw.integers(0, 8 * len(body), 10).tolist():
        flipped = bytearray(body)
        flipped[at // 8] ^= 1 << at % 8
        made.append(bytes(flipped))
    return made


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_damaged_picture_is_refused_by_name_or_decodes(tmp_path: Path, suffix: str) -> None:
    column, body = ImageColumn(), picture(WRITERS[suffix])
    refused = 0
    for number, damaged in enumerate(cut_and_flipped(body, np.random.default_rng(7))):
        file = tmp_path / f"{number}.{suffix}"
        file.write_bytes(damaged)
        try:
            known = column.read_cell(str(file), "/")
        except BadCell as error:
            refused += 1
            assert str(error).startswith(f"{file} "), error
        else:
            open_rgb(known)
    assert refused >= 9, "what is cut short is always seen"


def test_bytes_without_a_name_are_checked_too() -> None:
    with pytest.raises(BadCell, match="the image in this row is damaged"):
        ImageColumn().read_cell(picture("TIFF")[:-200], "/")


def test_the_bytes_of_a_reference_bear_its_name(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    found = FileRef(str(tmp_path / "a")).read()
    assert isinstance(found, FileBytes) and found == b"abc" and found.name == str(tmp_path / "a")
    assert pickle.loads(pickle.dumps(found)).name == found.name


@pytest.mark.parametrize("name", [b"caf\xe9.png", b"a\0b.png"])
def test_a_name_that_cannot_be_stored_is_a_bad_row(tmp_path: Path, name: bytes) -> None:
    column, written = ImageColumn(), os.fsdecode(name)
    with pytest.raises(BadCell, match="is no name of a file in UTF-8"):
        column.read_cell(written, str(tmp_path))
    assert column.ahead(written, str(tmp_path)) is None


def test_short_memory_is_no_verdict_about_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))

    def no_memory(self: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("PIL.ImageFile.ImageFile.load", no_memory)
        with pytest.raises(DataError, match="too little free memory"):
            ImageColumn().read_cell("a.png", str(tmp_path))
    assert ImageColumn().read_cell("a.png", str(tmp_path))


@pytest.mark.usefixtures("trusted")
def test_each_picture_of_a_reading_is_decoded_once_and_known_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    names = [f"{number:03}.png" for number in range(150)]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(picture(seed=number, size=(4, 4)))
    column, calls = ImageColumn(), Counting()
    monkeypatch.setattr(ImageColumn, "problem", lambda self, body: calls(body))
    before = list(warnings.filters)
    for _ in range(2):
        ahead = fetched_ahead(names, lambda name: [(column, str(tmp_path / name))])
        assert all(column.read_cell(name, str(tmp_path)) for name in ahead)
    assert calls.calls == len(names)
    assert warnings.filters == before, "filters are those of all threads"


def test_what_no_reader_expects_is_damage() -> None:
    body = bytearray(picture("AVIF"))
    for at in range(12, 300, 2):
        body[at] ^= 255
    with pytest.raises(BadCell, match="the image in this row"):
        ImageColumn().read_cell(bytes(body), "/")


def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(BadCell, match="it is no regular file"):
        ImageColumn().read_cell("a.png", str(tmp_path))


def test_a_cache_that_stops_taking_results_is_left(tmp_path: Path) -> None:
    cache = ContentCache(tmp_path)
    cache._database.execute("drop table files")
    for number in range(3):
        cache.keep(f"{number}", "tag", Content("00", 2, ""))
        cache.keep_verdict("00", "m", "")
        cache.flush()
    assert all(cache.find(f"{number}", "tag", "m") for number in range(3))


def test_a_file_that_holds_other_bytes_is_hashed_anew_by_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a file system's times do not show the change: what is remembered of the name is then wrong for ever."""
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    file, column = tmp_path / "a.bmp", ImageColumn()
    file.write_bytes(picture("BMP", 1))
    tag, _ = content.local_tag(str(file))
    stale = hashlib.sha256(b"what it held").hexdigest()
    cache = content_cache(str(tmp_path / "cache" / "content"), os.getpid())
    cache.keep(str(file), tag, Content(stale, 5, ""))
    cache.keep_verdict(stale, column.method(), "")
    cache.flush()
    known = column.read_cell(str(file), "")
    assert isinstance(known, FileRef) and known.sha256 == stale
    with pytest.raises(DataError, match=r"holds other bytes than when the data were read") as error:
        known.read()
    assert error.value.message.startswith(str(file)), "whatever names the row, the file is named too"
    right = hashlib.sha256(file.read_bytes()).hexdigest()
    assert getattr(column.read_cell(str(file), ""), "sha256", "") == right
    assert ContentCache(tmp_path / "cache" / "content").find(str(file), tag, column.method()) is None, "on the disk too"


def embedded_rows(count: int) -> list[Raw]:
    """Rows with a picture in them, as two writers of Parquet have it."""
    pictures = [picture("PNG", number) for number in range(count)]
    cells: list[Any] = [body if number % 2 else {"bytes": body, "path": None} for number, body in enumerate(pictures)]
    return [Raw({"image": cell}, f"t:{number}") for number, cell in enumerate(cells)]


def read_ahead(rows: list[Raw]) -> list[bytes]:
    mapping = ColumnMapping({"image": "image"}, {}, "/")
    return [mapping.row(raw)["image"] for raw in fetched_ahead(rows, mapping.ahead)]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_pictures_in_rows_are_checked_over_all_cores_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    two, check = threading.Barrier(2, timeout=30), ImageColumn.problem
    checked: list[bytes] = []

    def met(self: ImageColumn, body: bytes) -> str:
        checked.append(body)
        two.wait()
        return check(self, body)

    monkeypatch.setattr(ImageColumn, "problem", met)
    rows = embedded_rows(6)
    assert read_ahead(rows) == [picture("PNG", number) for number in range(6)]
    assert len(checked) == 6, "two at a time, each once"
    assert read_ahead(rows) and len(checked) == 6
    assert not content._embedded


def test_a_damaged_picture_in_a_row_is_that_rows_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    good, bad = picture(), picture("PNG", 3)[:-40]
    mapping = ColumnMapping({"image": "image"}, {}, "/")
    for _ in range(2):
        found: list[Any] = []
        for raw in fetched_ahead([Raw({"image": cell}, "t") for cell in (good, bad, good)], mapping.ahead):
            try:
                found.append(mapping.row(raw)["image"])
            except BadCell as error:
                found.append(str(error))
        assert found[::2] == [good, good] and "the image in this row is damaged" in found[1]


def test_a_large_file_is_looked_at_before_all_of_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(content, "LARGE", 1 << 20)
    film, huge, photo = (tmp_path / name for name in ("film.jpg", "huge.tif", "photo.bmp"))
    film.write_bytes(b"\0\0\0\x20ftypisom" + b"\0" * 12)
    os.truncate(film, 900 << 20)
    huge.write_bytes(picture("TIFF"))
    os.truncate(huge, 3 << 30)
    column, read = ImageColumn(), Path.read_bytes

    def refusing(self: Path) -> bytes:
        assert self == photo, "all of it is read"
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", refusing)
    with pytest.raises(BadCell, match=r"film\.jpg is not an image that can be read"):
        column.read_cell(str(film), "/")
    with pytest.raises(BadCell, match=r"huge\.tif has 3\.2 GB; at most 1\.0 GB of a picture are read"):
        column.read_cell(str(huge), "/")
    Image.new("RGB", (800, 600), "red").save(photo)
    assert photo.stat().st_size > content.LARGE
    assert column.read_cell(str(photo), "/") == str(photo)
