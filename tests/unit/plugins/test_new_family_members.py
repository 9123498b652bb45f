"""A kind of column, a medium and a task in a plugin folder: trained, searched, asked, served and evaluated."""

from __future__ import annotations

import base64
import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import InferenceClient
from transformers import ASTConfig, ASTModel

import regraft
from regraft import plugins
from regraft.contracts import Column, MadeUp, Medium, Task, column_of
from regraft.spec.serve import ServeSpec
from unit.columns import test_conformance as columns
from unit.endpoint.model_store import Endpoint, OpenEndpoint, running
from unit.endpoint.test_page import opened

OWN = Path(__file__).parent / "own"


@pytest.fixture(scope="module", autouse=True)
def folder() -> Iterator[Path]:
    """The plugin folder, known in these tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugins, "_folders", [])
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # else the client refuses this machine
        plugins.add_folder(OWN)
        yield OWN


def sound(number: int) -> bytes:
    found: bytes = column_of("echo").made_up(MadeUp(number, ("a",)))
    return found


def base(folder: Path) -> Path:
    """Save a tiny base that reads spectrograms."""
    config = ASTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        patch_size=4,
        frequency_stride=4,
        time_stride=4,
        max_length=16,
        num_mel_bins=8,
    )
    ASTModel(config).save_pretrained(folder)
    settings = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 8000, "feature_size": 1}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def rows(path: Path, count: int, first: int) -> str:
    """Write sounds and a table that names them beside their points."""
    lines = ["echo,point"]
    for number in range(first, first + count):
        (path.parent / f"{number}.wav").write_bytes(sound(number))
        x, y = np.random.default_rng(number).random(2)
        lines.append(f"{number}.wav,{x:.3f} {y:.3f}")
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def document(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "name": "pointing",
        "base": str(folder / "base"),
        "plugins": [str(OWN)],
        "task": "echo-pointing",
        "method": "full",
        "data": {"train": str(folder / "train.csv"), "eval": str(folder / "eval.csv")},
        "training": {"epochs": 1, "batch_size": 8, "lr": 1e-3, "baselines": False},
        "compute": {"workers": 0, "cpus": 1},
        "store": str(folder / "store"),
        **more,
    }


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the model `pointing`."""
    place = tmp_path_factory.mktemp("pointing")
    base(place / "base")
    rows(place / "train.csv", 24, 0)
    rows(place / "eval.csv", 8, 100)
    outcome = regraft.train(document(place))
    assert (outcome.model, outcome.version) == ("pointing", "v1")
    return place


@pytest.fixture(scope="module")
def endpoint(trained: Path) -> Iterator[Endpoint]:
    written = {"store": str(trained / "store"), "port": 0, "device": "cpu", "plugins": [str(OWN)]}
    opened = OpenEndpoint(ServeSpec.resolve(written))
    with running(opened) as url:
        yield Endpoint(url, opened)


def predicted(place: Path, number: int) -> list[float]:
    model = regraft.load("pointing", store=str(place / "store"), plugins=[OWN])
    found: list[float] = model.predict([sound(number)])[0]["point"]
    return found


def test_the_families_list_the_new_members() -> None:
    assert {"point", "echo"} <= set(Column.names())
    assert "echo" in Medium.names() and "echo-pointing" in Task.names()


def test_answers_to_a_path_and_to_bytes_are_the_same(trained: Path) -> None:
    model = regraft.load("pointing", store=str(trained / "store"), plugins=[OWN])
    answers = model.predict([str(trained / "3.wav"), {"echo": sound(3)}])
    assert answers[0]["point"] == pytest.approx(answers[1]["point"])
    assert len(answers[0]["point"]) == 2


def test_a_bad_row_is_refused_by_file_and_row(trained: Path) -> None:
    (trained / "bad.csv").write_text("echo,point\n0.wav,0.5\n")
    with pytest.raises(regraft.errors.DataError, match=r"bad.csv:2: point: .*a point of two numbers is wanted"):
        regraft.train(document(trained, data={"train": str(trained / "bad.csv"), "eval": str(trained / "eval.csv")}))
    (trained / "gone.csv").write_text("echo,point\nnone.wav,0.5 0.5\n")
    with pytest.raises(regraft.errors.DataError, match=r"there is no sound .*none\.wav"):
        regraft.train(document(trained, data={"train": str(trained / "gone.csv"), "eval": str(trained / "eval.csv")}))


def test_a_search_of_its_space_registers_the_best_trial(trained: Path) -> None:
    space = {"space": {"training.lr": {"choice": [1e-3, 1e-2]}}, "trials": 2}
    outcome = regraft.search(document(trained, name="searched", search=space))
    assert outcome.winner is not None
    model = regraft.load("searched", store=str(trained / "store"), plugins=[OWN])
    assert len(model.predict([sound(1)])[0]["point"]) == 2


def test_a_file_of_rows_is_answered_in_order(trained: Path) -> None:
    out = trained / "answers.jsonl"
    written = regraft.predict(
        "pointing", trained / "eval.csv", out, store=str(trained / "store"), plugins=[OWN], workers=0
    )
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert written.rows == len(lines) == 8
    assert lines[0]["answer"]["point"] == pytest.approx(predicted(trained, 100), abs=1e-5)


def test_the_client_of_the_inference_api_reads_the_answers(trained: Path, endpoint: Endpoint) -> None:
    client = InferenceClient(model=f"{endpoint.url}/models/pointing", token="none")
    found = client.audio_classification(sound(5))
    assert [item.label for item in found] == ["x", "y"]
    assert [item.score for item in found] == pytest.approx(predicted(trained, 5), abs=1e-5)
    coded = endpoint.ask("/models/pointing", {"inputs": base64.b64encode(sound(5)).decode()}).document
    assert [item["score"] for item in coded] == pytest.approx(predicted(trained, 5), abs=1e-5)
    refused = endpoint.ask("/models/pointing", {"inputs": base64.b64encode(b"no sound").decode()})
    assert refused.status == 422 and "no WAV file" in refused.document["error"]


def test_the_api_document_has_its_schema(endpoint: Endpoint) -> None:
    found = endpoint.get("/openapi.json").document
    post = found["paths"]["/models/pointing"]["post"]["requestBody"]["content"]
    assert set(post) == {"application/json", "audio/*", "multipart/form-data", "application/x-www-form-urlencoded"}
    request = found["components"]["schemas"]["model-pointing-request"]
    one = request["properties"]["inputs"]["anyOf"][0]["anyOf"][0]
    assert one == column_of("echo").request_schema()
    assert "EchoPointingRequest" in found["components"]["schemas"]


def test_the_page_knows_how_to_ask_and_how_to_draw(endpoint: Endpoint) -> None:
    shown = endpoint.get("/models/pointing").document
    assert shown["fields"] == {"echo": {"widget": "file", "accept": "audio/*", "called": "a sound"}}
    assert (shown["view"], shown["client"]) == ("scores", "audio_classification")


def test_the_page_asks_with_a_sound_and_draws_the_answer(chromium: Any, endpoint: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "5.wav").write_bytes(sound(5))
    wanted = InferenceClient(model=f"{endpoint.url}/models/pointing", token="none").audio_classification(sound(5))
    with opened(chromium, f"{endpoint.url}/#pointing") as seen:
        seen.page.wait_for_selector("#ask:not([disabled])")
        assert seen.page.get_attribute(".drop input", "accept") == "audio/*"
        seen.page.set_input_files(".drop input", str(tmp_path / "5.wav"))
        seen.ask()
        shown = [row.inner_text().split("\n") for row in seen.page.query_selector_all(".bar")]
        assert [name for name, _ in shown] == [item.label for item in wanted]
        assert [float(value) for _, value in shown] == pytest.approx([item.score for item in wanted], abs=1e-4)
        assert seen.complaints == [] and seen.outside == []


def test_an_evaluation_shows_the_worst_rows_in_the_kinds_own_view(trained: Path) -> None:
    output = trained / "report"
    result = regraft.evaluate(
        "pointing", trained / "eval.csv", output, store=str(trained / "store"), plugins=[OWN], resamples=10
    )
    assert result.document["metrics"]["distance"] > 0
    page = (output / "evaluation.html").read_text()
    x, y = np.random.default_rng(100).random(2)
    assert f"x {x:.2f}" in page and f"y {y:.2f}" in page and "100.wav" in page


@pytest.mark.parametrize("kind", ["point", "echo"])
@pytest.mark.parametrize(
    "check",
    [
        columns.test_the_kind_has_docs_and_says_how_it_is_kept,
        columns.test_a_made_up_value_is_kept_and_comes_back_unchanged,
        columns.test_a_made_up_value_is_a_cell_that_can_be_read,
        columns.test_what_fits_no_kind_is_refused_in_words,
        columns.test_a_fingerprint_tells_values_apart_and_is_json,
        columns.test_labels_come_with_an_order_and_only_from_kinds_of_classes,
    ],
)
def test_the_suite_of_its_family_holds(kind: str, check: Callable[..., None], tmp_path: Path) -> None:
    given = {"column": column_of(kind), "tmp_path": tmp_path}
    check(**{name: given[name] for name in inspect.signature(check).parameters})
