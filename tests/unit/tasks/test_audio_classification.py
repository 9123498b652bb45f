"""Sounds with one label: trained, asked, served, evaluated and exported; long ones are read in windows."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import regraft
from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.adapted import Adapted
from regraft.bases.locate import locate
from regraft.columns.audio import wav
from regraft.contracts import Context, Method, Row
from regraft.errors import DataError, Unsupported
from regraft.media.sounds.processor_input import fixed_seconds
from regraft.serving.export import export
from regraft.serving.predictor import Predictor
from regraft.tasks.audio_classification import AudioClassification
from unit.every.rows import base_of

RATE = 8_000
LABELS = ("high", "low")


def tone(label: str, number: int, seconds: float = 0.2) -> bytes:
    """Return a noisy tone, whose pitch is its label's."""
    draw = np.random.default_rng(number + 1_000 * (label == "low"))
    pitch = {"high": 1_200, "low": 200}[label] * draw.uniform(0.9, 1.1)
    times = np.arange(round(seconds * RATE)) / RATE
    return wav((6_000 * np.sin(2 * np.pi * pitch * times) + draw.normal(0, 300, len(times))).astype(np.int16), RATE)


def folders(folder: Path, each: int, first: int) -> Path:
    for label in LABELS:
        (folder / label).mkdir(parents=True)
        for number in range(first, first + each):
            (folder / label / f"{number}.wav").write_bytes(tone(label, number))
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, folders of tones, and a store with the model `tones`."""
    place = tmp_path_factory.mktemp("tones")
    base_of("wav2vec2", place / "base")
    for side, each, first in (("train", 8, 0), ("eval", 3, 100)):
        folders(place / side, each, first)
    assert regraft.train(document(place)).version == "v1"
    return place


def document(place: Path, **more: Any) -> dict[str, Any]:
    return {
        "name": "tones",
        "base": str(place / "base"),
        "task": "audio-classification",
        "method": "full",
        "data": {"train": str(place / "train"), "eval": str(place / "eval")},
        "training": {"epochs": 1, "batch_size": 8, "lr": 1e-3},
        "compute": {"workers": 0, "cpus": 1},
        "store": str(place / "store"),
        **more,
    }


@pytest.fixture
def adapted(place: Path) -> Iterator[Adapted]:
    task, method = AudioClassification(seconds=0.25, windows=5), Method.parse("full")
    assert isinstance(method, Method)
    yield adapt(locate(str(place / "base")), Adaptation(task=task, method=method, labels=LABELS, seed=0))


def scores(adapted: Adapted, *rows: Row) -> np.ndarray[Any, Any]:
    task, context = adapted.task, adapted.context
    batch = task.collate([task.encode(row, context, train=False) for row in rows], context)
    with torch.no_grad():
        found = task.answers(adapted.forward(batch), batch, context)
    return np.array(
        [[{item["label"]: item["score"] for item in one["scores"]}[name] for name in LABELS] for one in found]
    )


def test_the_scores_of_a_long_sound_are_the_mean_over_its_windows(adapted: Adapted) -> None:
    """The windows of this one are a quarter of a second each, end to end."""
    draw = np.random.default_rng(0)
    samples = (3_000 * draw.normal(size=(5, 2_000)) * np.array([[0.2], [1], [0.5], [2], [0.1]])).astype(np.int16)
    parts = scores(adapted, *({"audio": wav(part, RATE)} for part in samples))
    assert scores(adapted, {"audio": wav(samples.ravel(), RATE)})[0] == pytest.approx(parts.mean(0), abs=1e-5)


def test_a_sound_beside_longer_ones_has_the_scores_that_it_has_alone(adapted: Adapted) -> None:
    rows = [{"audio": tone("low", number, seconds)} for number, seconds in enumerate((0.1, 0.25, 0.9, 4.0))]
    task, context = adapted.task, adapted.context
    assert task.collate([task.encode(row, context, train=True) for row in rows], context)["windows"] == [1, 1, 4, 5]
    alone = np.concatenate([scores(adapted, row) for row in rows])
    assert scores(adapted, *rows) == pytest.approx(alone, abs=1e-5)


def test_what_is_frozen_of_long_sounds_is_computed_once_a_row(place: Path) -> None:
    notes: list[str] = []
    found = {}
    for trunk in ("off", "memory"):
        task = {"type": "audio-classification", "seconds": 0.1, "windows": 3}
        written = document(place, name=f"long-{trunk}", task=task, method="feature-extraction")
        written["training"] |= {"epochs": 3, "optimizer": "sgd", "baselines": False}
        written["compute"] |= {"trunk": trunk}
        progress = lambda event: notes.append(getattr(event, "message", ""))  # noqa: E731
        found[trunk] = regraft.train(written, progress=progress).metrics
    assert any("computed once a row" in note for note in notes), notes
    assert found["memory"] == pytest.approx(found["off"], rel=1e-5, abs=1e-5)


def test_a_window_is_as_long_as_the_longest_training_row_unless_it_is_written(place: Path, tmp_path: Path) -> None:
    task = AudioClassification().fit_to_sample({"audio": tone("low", 0, seconds)} for seconds in (0.2, 0.35, 0.3))
    context = Context(regraft_processor(place / "base"), LABELS)
    spectrum = regraft_processor(base_of("audio-spectrogram-transformer", tmp_path).path)
    assert task.longest == pytest.approx(0.35)
    assert task.window_seconds(context.processor) == pytest.approx(0.35)
    assert AudioClassification(longest=40).window_seconds(context.processor) == 10
    assert AudioClassification(seconds=2, longest=40).window_seconds(context.processor) == 2
    assert fixed_seconds(spectrum) == task.window_seconds(spectrum) == 0.2, "the feature extractor's own"
    assert task.fit_to_sample([{"audio": tone("low", 0, 2.0)}]) == task


def regraft_processor(folder: Path) -> Any:
    from regraft.bases.load import load_processor

    return load_processor(locate(str(folder)), "audio")


def test_nothing_is_hidden_at_random_while_a_base_trains(adapted: Adapted) -> None:
    assert adapted.model.config.apply_spec_augment is False
    assert adapted.model.config.layerdrop == 0.0


@pytest.mark.slow
def test_a_table_of_paths_is_read_as_folders_are(place: Path) -> None:
    lines = [f"train/{label}/{number}.wav,{label}" for label in LABELS for number in range(8)]
    (place / "train.csv").write_text("\n".join(["file,label", *lines]) + "\n")
    data = {"train": str(place / "train.csv"), "eval": str(place / "eval"), "columns": {"audio": "file"}}
    eval_data = {**data, "eval": 0.2}
    found = regraft.train(document(place, name="table", data=eval_data))
    assert found.version == "v1"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"no sound " * 50, "is no sound that can be read"),
        (b"", "is empty"),
        (wav(np.zeros(0, np.int16), RATE), "no samples"),
    ],
    ids=["text", "empty", "zero"],
)
def test_a_bad_sound_is_named_with_its_row_before_training_or_left_out(
    content: bytes, problem: str, place: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.wav").write_bytes(content)
    lines = [f"{place}/train/{label}/{number}.wav,{label}" for label in LABELS for number in range(4)]
    lines.insert(3, "bad.wav,low")
    (tmp_path / "rows.csv").write_text("\n".join(["audio,label", *lines]) + "\n")
    data = {"train": str(tmp_path / "rows.csv"), "eval": str(place / "eval")}
    with pytest.raises(DataError, match=rf"rows\.csv:5: audio: .*bad\.wav .*{problem}"):
        regraft.train(document(place, name="bad", data=data))
    if content:
        return
    skipped = regraft.train(document(place, name="bad", data={**data, "bad_rows": "skip"}))
    assert skipped.version
    with pytest.raises(DataError, match=problem):
        regraft.load("tones", store=str(place / "store")).predict([str(tmp_path / "bad.wav")])


def test_without_the_library_training_ends_with_the_line_that_installs_it(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path))  # where no file is known yet
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(Unsupported, match=r"sounds need soundfile: pip install 'regraft\[audio\]'"):
        regraft.train(document(place, name="lacking"))


@pytest.mark.slow
def test_a_search_registers_the_best_trial(place: Path) -> None:
    space = {"space": {"training.lr": {"choice": [1e-3, 1e-2]}}, "trials": 2}
    outcome = regraft.search(document(place, name="searched", method="feature-extraction", search=space))
    assert outcome.winner is not None


def test_the_page_of_an_evaluation_draws_sounds(place: Path, tmp_path: Path) -> None:
    result = regraft.evaluate("tones", place / "eval", tmp_path, store=str(place / "store"), resamples=10)
    assert {"accuracy", "f1"} <= set(result.document["metrics"])
    page = (tmp_path / "evaluation.html").read_text()
    assert "data:image/jpeg;base64," in page and "100.wav" in page


def test_a_folder_is_answered_in_order(place: Path, tmp_path: Path) -> None:
    written = regraft.predict(
        "tones", place / "eval", tmp_path / "answers.jsonl", store=str(place / "store"), workers=0
    )
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert written.rows == len(lines) == 6
    model = regraft.load("tones", store=str(place / "store"))
    for line in lines:
        assert line["answer"]["score"] == pytest.approx(model.predict(line["audio"])[0]["score"], abs=1e-5)


CONVOLUTIONS: dict[str, Any] = {
    "conv_dim": (8, 8),
    "conv_kernel": (40, 10),
    "conv_stride": (20, 10),
    "classifier_proj_size": 8,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "vocab_size": 30,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_size": 8,
    "intermediate_size": 12,
}
WHISPER: dict[str, Any] = {
    **{f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in (("layers", 2), ("ffn_dim", 12))},
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "d_model": 8,
    "vocab_size": 30,
    "num_mel_bins": 8,
    "max_source_positions": 50,
    "max_target_positions": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}
RAW = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": RATE, "feature_size": 1}
SPECTRUM = {"feature_extractor_type": "WhisperFeatureExtractor", "sampling_rate": 16_000, "feature_size": 8}
MASKED = {**RAW, "return_attention_mask": True}
BASES = {
    "hubert": (lambda: transformers.HubertModel(transformers.HubertConfig(**CONVOLUTIONS)), RAW),
    "wavlm": (lambda: transformers.WavLMModel(transformers.WavLMConfig(**CONVOLUTIONS)), RAW),
    "masked": (
        lambda: transformers.Wav2Vec2Model(
            transformers.Wav2Vec2Config(**CONVOLUTIONS, feat_extract_norm="layer", do_stable_layer_norm=True)
        ),
        MASKED,
    ),
    "whisper": (
        lambda: transformers.WhisperModel(transformers.WhisperConfig(**WHISPER)),
        {**SPECTRUM, "chunk_length": 1},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BASES)
def test_other_bases_are_trained_in_part_asked_and_exported(name: str, place: Path, tmp_path: Path) -> None:
    make, settings = BASES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        make().save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "preprocessor_config.json").write_text(json.dumps(settings))
    written = document(place, base=str(tmp_path / "base"), store=str(tmp_path / "store"))
    regraft.train({**written, "method": {"type": "freeze", "depth": 1}})
    model = regraft.load("tones", store=str(tmp_path / "store"))
    clips = [tone("low", 5, 0.1), tone("high", 6, 0.2), tone("high", 7, 2.3)]
    together = model.predict(clips)
    for clip, answer in zip(clips, together, strict=True):
        assert model.predict([clip])[0]["score"] == pytest.approx(answer["score"], abs=1e-5)
    exported = export(str(tmp_path / "store"), "tones", tmp_path / "out")
    assert exported.kind == "transformers"
    found = transformers.AutoModelForAudioClassification.from_pretrained(tmp_path / "out").eval()
    adapted = Predictor.open(str(tmp_path / "store"), "tones", device="cpu").adapted
    batch = adapted.task.collate(
        [adapted.task.encode({"audio": clips[1]}, adapted.context, train=False)], adapted.context
    )
    with torch.no_grad():
        assert torch.allclose(found(**batch).logits, adapted.forward(batch).logits, atol=1e-5)
