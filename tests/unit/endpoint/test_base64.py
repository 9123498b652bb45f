"""Pictures in base64 are read as common encoders write them; what would be guessed is refused."""

from __future__ import annotations

import base64
import random
import re
import tracemalloc
from urllib.parse import quote

import pytest

from regraft.columns.files.base64_text import decoded
from regraft.contracts import BadCell

DATA = random.Random(5).randbytes(601)
PLAIN = base64.b64encode(DATA).decode()
URL_SAFE = base64.urlsafe_b64encode(DATA).decode()


def lines(text: str, width: int, end: str) -> str:
    return end.join(text[start : start + width] for start in range(0, len(text), width))


WRITTEN = {
    "plain": PLAIN,
    "coreutils": lines(PLAIN, 76, "\n") + "\n",
    "Java's MIME encoder": lines(PLAIN, 76, "\r\n"),
    "Python's encodebytes": base64.encodebytes(DATA).decode(),
    "PEM": lines(PLAIN, 64, "\n"),
    "indented, as in YAML": "\n" + "".join(f"   {line}\n" for line in lines(PLAIN, 76, "\n").split("\n")),
    "lines that a shell joined by spaces": lines(PLAIN, 76, " "),
    "url-safe": URL_SAFE,
    "url-safe without padding": URL_SAFE.rstrip("="),
    "plain without padding": PLAIN.rstrip("="),
    "data URL": f"data:image/png;base64,{PLAIN}",
    "data URL with parameters": f"DATA:image/png;charset=utf-8;BASE64,{PLAIN}",
    "data URL, escaped": f"data:image/png;base64,{quote(PLAIN, safe='')}",
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_encoders_write_is_read(name: str) -> None:
    assert "+" in PLAIN and "/" in PLAIN and PLAIN.endswith("==")
    assert decoded(WRITTEN[name], "a picture") == DATA


@pytest.mark.parametrize(
    "text, message",
    [
        (PLAIN.replace("+", " "), "write %2B"),
        (PLAIN.replace("/", "_"), "mixes the two alphabets"),
        (PLAIN[:-3], "it is cut off"),
        (str(base64.b64encode(DATA)), r"\.decode\(\)"),
        ("data:image/svg+xml,<svg/>", "not base64"),
        ("photo.jpg", "not its name or address"),
        ("https://example.org/a.png", "not its name or address"),
        (PLAIN[:100] + "é" + PLAIN[101:], "not base64"),
        (PLAIN[:8] + "=" + PLAIN[9:], "not base64"),
    ],
)
def test_what_would_be_guessed_is_refused_with_the_way(text: str, message: str) -> None:
    with pytest.raises(BadCell, match=message):
        decoded(text, "a picture")


def test_a_plus_that_became_a_space_is_never_dropped() -> None:
    draw = random.Random(3)
    for _ in range(300):
        plain = base64.b64encode(draw.randbytes(draw.randrange(3, 90))).decode()
        at = [match.start() for match in re.finditer(r"\+", plain)]
        if not at or at == [0] or at == [len(plain) - 1]:
            continue
        with pytest.raises(BadCell):
            decoded("A" + plain.replace("+", " ") + "AAA", "a picture")


def test_megabytes_of_spaces_or_lines_take_no_time() -> None:
    for text in (" " * (2 << 20), "A\n" * (1 << 20), "A " * (1 << 20), "\t \r" * (1 << 20)):
        try:
            decoded(text, "a picture")
        except BadCell:
            continue


@pytest.mark.parametrize(
    "written", [lines("A" * 200_000, 4, "\n"), lines("A" * 200_000, 4, "\n  "), lines("A" * 200_000, 4, " ")]
)
def test_short_lines_take_little_memory(written: str) -> None:
    tracemalloc.start()
    try:
        assert decoded(written, "image") == bytes(150_000)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(written)
    finally:
        tracemalloc.stop()


def test_many_escapes_take_little_memory() -> None:
    written = "data:image/png;base64," + "%41" * 200_000
    tracemalloc.start()
    try:
        assert decoded(written, "image") == bytes(150_000)
        assert tracemalloc.get_traced_memory()[1] < 8 * len(written)
    finally:
        tracemalloc.stop()
