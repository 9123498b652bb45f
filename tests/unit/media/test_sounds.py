"""Sound files: four formats, any rate and number of channels, windows, and what is refused in words."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.signal import resample_poly

from regraft.columns.audio import wav
from regraft.contracts import BadCell, column_of
from regraft.errors import DataError, Unsupported
from regraft.media.sounds import sounds
from regraft.media.sounds.check import damage
from regraft.media.sounds.sounds import Span, read_spans, sound_header
from regraft.media.sounds.spectrogram import SPECTRUM, WAVE, WIDTH, sound_picture
from regraft.media.sounds.windows import spread

soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed")


def tone(seconds: float, rate: int, pitch: float = 440.0) -> np.ndarray[Any, Any]:
    times = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * pitch * times)).astype(np.float32)


def written(samples: np.ndarray[Any, Any], rate: int, form: str = "WAV", **more: Any) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, **more)
    return file.getvalue()


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3"])
@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_every_format_is_read_at_the_rate_that_is_asked_for(form: str, rate: int) -> None:
    content = written(tone(0.5, rate), rate, form)
    header = sound_header(content)
    assert (header.rate, header.channels) == (rate, 1) and header.seconds == pytest.approx(0.5, abs=0.06)
    assert damage(content) == ""
    [found] = read_spans(content, [Span(0, header.frames)], 16_000)
    strongest = np.abs(np.fft.rfft(found[:8000])).argmax() * 16_000 / 8000
    assert len(found) == pytest.approx(8_000, abs=1_000) and strongest == pytest.approx(440, abs=3)


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG"])
def test_windows_hold_the_samples_of_the_whole_sound(form: str) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 60_000).astype(np.float32)
    content = written(noise, 16_000, form)
    [whole] = read_spans(content, [Span(0, 60_000)], 16_000)
    spans = [Span(start, 2_000) for start in (1_000, 12_345, 50_000, 31_000)]
    for span, found in zip(spans, read_spans(content, spans, 16_000), strict=True):
        np.testing.assert_array_equal(found, whole[span.start : span.start + span.length])


def test_a_path_an_open_file_and_bytes_are_the_same_sound(tmp_path: Path) -> None:
    content = written(tone(0.1, 8_000), 8_000)
    (tmp_path / "a.mp3").write_bytes(content)  # the content decides, not the name
    with open(tmp_path / "a.mp3", "rb") as file:
        every = [read_spans(value, [Span(0, 800)], 8_000)[0] for value in (content, str(tmp_path / "a.mp3"), file)]
        assert (every[2] == read_spans(file, [Span(0, 800)], 8_000)[0]).all(), "twice"
    assert all((one == every[0]).all() for one in every)


def test_channels_are_averaged_and_what_is_beyond_full_scale_is_cut() -> None:
    both = np.stack([np.full(100, 0.5), np.full(100, 3.0)], axis=1)
    [found] = read_spans(written(both, 8_000, subtype="FLOAT"), [Span(0, 100)], 8_000)
    assert found == pytest.approx(np.full(100, 0.75))


def test_a_window_is_a_part_of_the_whole_sound_at_the_other_rate() -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 8_000).astype(np.float32)
    content = written(samples, 8_000, subtype="FLOAT")
    whole = resample_poly(samples, 2, 1)
    for start in (0, 2_000, 6_400):
        [part] = read_spans(content, [Span(start, 1_600)], 16_000)
        assert part == pytest.approx(whole[2 * start : 2 * start + 3_200], abs=1e-5)


@pytest.mark.parametrize("frames", [1, 99, 100, 101, 199, 200, 350, 12_345])
@pytest.mark.parametrize("most", [1, 2, 5, 9])
def test_windows_are_spread_over_all_of_a_sound(frames: int, most: int) -> None:
    spans = spread(frames, 100, most)
    assert 1 <= len(spans) <= most
    assert all(0 <= span.start <= span.start + span.length <= frames for span in spans)
    if frames <= 100:
        assert spans == [Span(0, frames)]
        return
    assert {span.length for span in spans} == {100}
    ends = [spans[0].start, frames - spans[-1].start - 100]
    assert ends == [0, 0] if len(spans) > 1 else abs(ends[0] - ends[1]) <= 1
    if most * 100 >= frames:
        covered = {place for span in spans for place in range(span.start, span.start + span.length)}
        assert covered == set(range(frames))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"no sound at all " * 20, "is no sound that can be read (WAV, FLAC, OGG, MP3)"),
        (wav(np.zeros(0, np.int16), 8_000), "has no samples"),
        (written(tone(0.1, 8_000), 8_000, "AIFF"), "is in AIFF, which is not read"),
        (written(np.full(80, np.nan), 8_000, subtype="FLOAT"), "holds samples that are no numbers"),
        (written(np.zeros((80, 20)), 8_000), "has 20 channels; at most 16"),
        (wav(np.zeros(80, np.int16), 500), "has 500 samples a second; allowed are 1,000 to 384,000"),
        (written(np.zeros(601_000), 1_000, "FLAC"), "takes 601 seconds; at most 600 are read"),
        (written(np.random.default_rng(0).uniform(-1, 1, 9_000), 8_000, "FLAC")[:9_000], "is"),
    ],
    ids=["empty", "text", "zero", "aiff", "nan", "channels", "slow", "long", "cut"],
)
def test_what_is_no_sound_is_refused_in_words(content: bytes, problem: str, tmp_path: Path) -> None:
    found = damage(content)
    assert found.startswith(problem) and len(found) > 15
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(BadCell) as refused:
        column_of("audio").read_cell("a.wav", str(tmp_path))
    assert str(refused.value) == f"{tmp_path}/a.wav {found}"


def test_without_the_library_the_message_has_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    for ask in (lambda: sound_header(wav(np.ones(80, np.int16), 8_000)), lambda: damage(b"any")):
        with pytest.raises(Unsupported, match=r"pip install 'regraft\[audio\]'"):
            ask()


def test_an_unusual_rate_takes_no_large_filter() -> None:
    content = wav((9_000 * tone(0.2, 383_979)).astype(np.int16), 383_979)
    [found] = read_spans(content, [Span(0, sound_header(content).frames)], 16_000)
    assert len(found) == pytest.approx(3_200, abs=2)
    assert sounds._FINEST <= 2_000


def test_a_report_draws_the_waveform_above_the_spectrogram() -> None:
    picture = np.asarray(sound_picture(written(tone(0.5, 16_000, 2_000.0), 16_000))).astype(int).sum(2)
    assert picture.shape == (WAVE + SPECTRUM, WIDTH)
    spectrum = picture[WAVE:].mean(1)
    assert spectrum.argmin() == pytest.approx(SPECTRUM * (1 - 2_000 / 8_000), abs=3), "the darkest line is the tone"
    with pytest.raises(DataError):
        sound_picture(b"gone")
