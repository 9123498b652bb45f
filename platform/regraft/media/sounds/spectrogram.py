"""A picture of a sound for reports: its waveform above its spectrogram."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from regraft.lazy import Later
from regraft.media.sounds.sounds import Samples, Span, read_spans, sound_header

scipy_signal = Later("scipy.signal")

WIDTH, WAVE, SPECTRUM = 400, 60, 120
"""Width and heights of the picture's parts in pixels."""
_RATE = 16_000
_LONGEST_S = 60
"""Seconds at the beginning of a sound that are drawn."""
_WINDOW, _STEP = 512, 160
_RANGE_DB = 70.0
"""Loudness between black and white."""
_PAPER, _INK = np.array([247, 248, 250], np.float32), np.array([38, 84, 124], np.float32)


def sound_picture(value: Any) -> Image.Image:
    """Return a picture of a sound, time from left to right. Raises DataError for one that cannot be read any more."""
    header = sound_header(value)
    samples = read_spans(value, [Span(0, min(header.frames, _LONGEST_S * header.rate))], _RATE)[0]
    shades = np.concatenate([_waveform(samples), _spectrum(samples)])[..., None]
    return Image.fromarray((_PAPER + shades * (_INK - _PAPER)).astype(np.uint8))


def _waveform(samples: Samples) -> NDArray[np.float32]:
    """Return the loudest sample of each column as a bar around the middle, (WAVE, WIDTH)."""
    edges = np.linspace(0, len(samples), WIDTH + 1).astype(int)
    peaks = np.array([np.abs(samples[a : max(b, a + 1)]).max(initial=0.0) for a, b in pairwise(edges)])
    height = np.abs(np.linspace(1, -1, WAVE))[:, None]
    return np.asarray(height <= np.maximum(peaks / max(peaks.max(), 1e-6), 0.02)[None], np.float32)


def _spectrum(samples: Samples) -> NDArray[np.float32]:
    """Return loudness by frequency, high ones above, (SPECTRUM, WIDTH), from 0 to 1."""
    padded = np.pad(samples, (0, max(0, _WINDOW - len(samples))))
    _, _, power = scipy_signal.spectrogram(padded, _RATE, nperseg=_WINDOW, noverlap=_WINDOW - _STEP)
    loud = 10 * np.log10(np.maximum(power[::-1], 1e-12))
    shades = ((loud - loud.max()) / _RANGE_DB + 1).clip(0, 1).astype(np.float32)
    drawn = Image.fromarray(shades).resize((WIDTH, SPECTRUM), Image.Resampling.BILINEAR)
    return np.asarray(drawn, np.float32)
