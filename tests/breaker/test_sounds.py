"""Sounds of strangers: other processes decode what is no plain WAV, and are ended when one takes too much."""

from __future__ import annotations

import io
import random
import struct
from typing import Any

import numpy as np
import pytest

from regraft.columns.audio import wav
from regraft.contracts import BadCell, column_of
from regraft.contracts.file_ref import UndecodedFile
from regraft.errors import DataError
from regraft.media.sounds import decoding
from regraft.media.sounds.decoding import most_samples, plain_sound
from regraft.media.sounds.plain import CostlySound, float_wav, is_plain, stated_samples
from regraft.media.sounds.sounds import Span, read_spans, sound_header

soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed")
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 9_000).astype(np.float32)
FORMATS = ("FLAC", "OGG", "MP3")


class Spent:
    """An allowance of so many samples."""

    def __init__(self, most: int = 10**9) -> None:
        self.most, self.decoded = most, 0

    def decode(self, count: int, described: str) -> None:
        self.decoded += count
        if self.decoded > self.most:
            raise BadCell(described)


def written(samples: np.ndarray[Any, Any], form: str, rate: int = 8_000, **more: Any) -> bytes:
    file, channels = io.BytesIO(), 1 if samples.ndim == 1 else samples.shape[1]
    with soundfile.SoundFile(file, "w", rate, channels, format=form, **more) as sound:
        for start in range(0, len(samples), 4_096):  # the library's writer of OGG crashes on large parts
            sound.write(samples[start : start + 4_096])
    return file.getvalue()


@pytest.mark.parametrize("form", FORMATS)
def test_another_process_gives_the_samples_that_this_one_would_read(form: str) -> None:
    content = written(np.stack([NOISE, NOISE[::-1]], axis=1), form)
    spent = Spent()
    received = column_of("audio").receive_body(content, spent)
    assert isinstance(received, UndecodedFile)
    plain = received.converted()
    assert is_plain(plain) and spent.decoded > 0
    frames = sound_header(content).frames
    [mine], [other] = (read_spans(one, [Span(0, frames)], 16_000) for one in (content, plain))
    assert (mine == other).all()


def test_a_plain_file_is_read_in_this_process_and_counts_its_samples() -> None:
    for content in (wav(np.ones(500, np.int16), 8_000), float_wav(NOISE[:500], 8_000)):
        assert is_plain(content) and stated_samples(content) == 500
        assert column_of("audio").receive_body(content, Spent()) == content
        assert not isinstance(column_of("audio").receive_body(content, Spent()), UndecodedFile)
        assert not is_plain(content + b"more") and not is_plain(content[:-1])
        with pytest.raises(BadCell, match="500 samples"):
            column_of("audio").receive_body(content, Spent(499))


def test_a_flac_states_its_samples_and_is_held_to_them() -> None:
    content = bytearray(written(np.stack([NOISE, NOISE], axis=1), "FLAC"))
    assert stated_samples(bytes(content)) == 18_000
    (bits,) = struct.unpack_from(">Q", content, 18)
    struct.pack_into(">Q", content, 18, (bits >> 36 << 36) | 100)
    assert stated_samples(bytes(content)) == 200
    with pytest.raises(DataError):
        plain_sound(bytes(content), 100)


@pytest.mark.parametrize("form", FORMATS)
def test_a_sound_of_more_samples_than_are_expected_is_refused(form: str) -> None:
    with pytest.raises(CostlySound, match="decodes to more samples"):
        plain_sound(written(NOISE, form), 5_000)
    assert most_samples(b"", None) == decoding.UNSTATED


def test_a_sound_that_takes_too_long_is_ended_and_the_next_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    large = written(np.tile(NOISE, 300), "OGG")
    monkeypatch.setattr(decoding, "REQUEST", decoding.Bound(seconds=0.001, megabytes=300, wait_s=2))
    with pytest.raises(CostlySound, match=r"takes more than 0\.001 s"):
        plain_sound(large, 10**7)
    monkeypatch.undo()
    assert is_plain(plain_sound(written(NOISE, "OGG"), 10**6))


@pytest.mark.parametrize("form", ["WAV", *FORMATS])
def test_damaged_sounds_are_refused_or_decoded_and_never_raise_anything_else(form: str) -> None:
    draw, whole = random.Random(form), written(NOISE[:3_000], form)
    for _ in range(12):
        content = bytearray(whole)
        for _ in range(draw.randint(1, 30)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        body = bytes(content[: draw.randint(1, len(content))])
        try:
            received = column_of("audio").receive_body(body, Spent())
            found = received.converted() if isinstance(received, UndecodedFile) else received
            sound_header(found)
        except (BadCell, DataError) as error:
            assert len(str(error)) > 10
        assert isinstance(column_of("audio").problem(body), str)
