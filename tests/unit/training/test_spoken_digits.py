"""Spoken digits, made by espeak-ng: a small spectrogram transformer of random weights hears them in other voices.

The settings were chosen on the voices DEVELOPMENT; the voices HELD_OUT are asked afterwards. A first choice, of nine
training voices, had reached 0.99 on two voices and 0.79 on three others, which belong to DEVELOPMENT since.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.signal import resample_poly
from transformers import ASTConfig, ASTModel

import regraft
from regraft.columns.audio import wav

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed: apt-get install it"),
]
soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed")

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
VOICES = (
    *("m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f4"),
    *("Mike", "Marco", "Gene", "Andrea", "steph"),
)
DEVELOPMENT = ("m8", "f5", "Andy", "Hugo")
HELD_OUT = ("Alex", "Annie", "Lee", "linda")
RATES = (8_000, 16_000, 44_100)


def spoken(folder: Path, voices: Sequence[str], speeds: Sequence[int], pitches: Sequence[int]) -> Path:
    """Say every digit in every voice, speed and pitch, into a folder for each digit."""
    jobs = []
    for (digit, word), voice, speed, pitch in product(enumerate(WORDS), voices, speeds, pitches):
        (folder / str(digit)).mkdir(parents=True, exist_ok=True)
        path = folder / str(digit) / f"{voice}-{speed}-{pitch}.wav"
        jobs.append(["espeak-ng", "-v", f"en-us+{voice}", "-s", str(speed), "-p", str(pitch), "-w", str(path), word])
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda job: subprocess.run(job, check=True, capture_output=True), jobs))
    return folder


def base(folder: Path) -> Path:
    """Save a spectrogram transformer of random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
        patches = {"patch_size": 16, "frequency_stride": 16, "time_stride": 16, "max_length": 128, "num_mel_bins": 64}
        ASTModel(
            ASTConfig(**sizes, **patches, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
        ).save_pretrained(folder)
    settings = {"feature_extractor_type": "ASTFeatureExtractor", "sampling_rate": 16_000, "max_length": 128}
    (folder / "preprocessor_config.json").write_text(json.dumps({**settings, "num_mel_bins": 64}))
    return folder


def trained(place: Path, evaluated: Path) -> dict[str, float]:
    """Train a model of digits in the store beside `place`, and return its metrics on other voices."""
    written = {
        "name": "digits",
        "base": str(base(place / "base")),
        "task": "audio-classification",
        "method": "full",
        "data": {
            "train": str(spoken(place / "train", VOICES, (120, 165, 210), (25, 75))),
            "eval": str(spoken(place / "eval", DEVELOPMENT, (140, 170, 200), (30, 60))),
        },
        "training": {"epochs": 14, "batch_size": 32, "lr": 2e-3, "baselines": False},
        "compute": {"workers": 0, "cpus": 1},
        "store": str(place / "store"),
    }
    print("on the voices of the development part:", regraft.train(written).metrics)
    result = regraft.evaluate("digits", evaluated, place / "report", store=str(place / "store"), resamples=100)
    found: dict[str, float] = result.document["metrics"]
    return found


def test_digits_are_heard_in_other_voices_and_at_every_rate(tmp_path: Path) -> None:
    """Measured once: 0.875 of 240 clips in held-out voices, 0.9125 of the development part; every rate agrees.

    It took 8 minutes on a machine with ten times the work that its two cores can do.
    """
    held_out = spoken(tmp_path / "test", HELD_OUT, (135, 165, 195), (35, 65))
    metrics = trained(tmp_path, held_out)
    print("in held-out voices:", metrics)
    assert metrics["accuracy"] >= 0.85
    model = regraft.load("digits", store=str(tmp_path / "store"))
    for path in sorted(held_out.glob("*/*-165-35.wav")):
        samples, rate = soundfile.read(io.BytesIO(path.read_bytes()), dtype="float32")
        others = [resample_poly(samples, other, rate) for other in RATES]
        clips = [
            wav((2**15 * other.clip(-1, 1 - 2**-15)).astype(np.int16), at)
            for other, at in zip(others, RATES, strict=True)
        ]
        assert len({answer["label"] for answer in model.predict(clips)}) == 1, path
