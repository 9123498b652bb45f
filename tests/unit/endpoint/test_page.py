"""The endpoint's page in a browser: headless Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from regraft.endpoint.api_keys import ApiKey, append, hashed
from unit.endpoint.model_store import Endpoint, ModelStore
from unit.every.rows import TEXTS, picture

TASKS = (
    "question-answering",
    "token-classification",
    "object-detection",
    "semantic-segmentation",
    "anomaly-detection",
    "depth-estimation",
    "text-pair-regression",
    "summarization",
)


@dataclass
class Seen:
    """An open page, its errors, and its requests to other hosts."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def ask(self) -> None:
        self.page.click("#ask")
        self.page.wait_for_selector("#ask:not([disabled])")

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))


@contextmanager
def opened(chromium: Any, url: str, width: int = 1180, scheme: str = "light") -> Iterator[Seen]:
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    seen = Seen(context.new_page())
    seen.page.set_default_timeout(20_000)
    seen.page.on("console", lambda message: seen.complaints.append(message.text))
    seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    host = url.split("/")[2]
    seen.page.on(
        "request",
        lambda request: (
            None if request.url.startswith((f"http://{host}/", "blob:", "data:")) else seen.outside.append(request.url)
        ),
    )
    try:
        seen.page.goto(url)
        yield seen
    finally:
        context.close()


@pytest.fixture(scope="module")
def full(model_store: ModelStore, endpoint: Endpoint) -> Endpoint:
    for task in TASKS:
        model_store.add(task)
    endpoint.opened.routes.refresh()
    return endpoint


def test_an_answer_is_marked_in_its_text(chromium: Any, full: Endpoint, model_store: ModelStore) -> None:
    with opened(chromium, f"{full.url}/#question-answering") as seen:
        seen.page.wait_for_selector("#ask:not([disabled])")
        asked = {"question": TEXTS[0], "context": f"{TEXTS[2]} \U0001f600 {TEXTS[1]}"}
        for name, text in asked.items():
            seen.page.fill(f'[data-column="{name}"]', text)
        seen.ask()
        (wanted,) = model_store.predict("question-answering", [asked])
        assert seen.text("#answer mark") == wanted["answer"]
        assert seen.page.text_content("#answer .text") == asked["context"]
        assert not seen.complaints and not seen.outside


@pytest.fixture
def photo(tmp_path: Path) -> str:
    path = tmp_path / "photo.png"
    path.write_bytes(picture(0))
    return str(path)


def test_a_text_is_asked_and_its_labels_stand_with_bars(chromium: Any, full: Endpoint, model_store: ModelStore) -> None:
    with opened(chromium, f"{full.url}/#text-classification") as seen:
        seen.page.wait_for_selector("#ask:not([disabled])")
        seen.page.fill("textarea", TEXTS[0])
        seen.ask()
        wanted = model_store.predict("text-classification", [TEXTS[0]])[0]["scores"]
        rows = [row.inner_text().split("\n") for row in seen.page.query_selector_all(".bar")]
        assert [row[0] for row in rows] == [item["label"] for item in wanted]
        for row, item in zip(rows, wanted, strict=True):
            assert float(row[1]) == pytest.approx(item["score"], abs=1e-4)
        widths = [row.bounding_box()["width"] for row in seen.page.query_selector_all(".fill")]
        assert widths == sorted(widths, reverse=True) and widths[-1] > 0
        assert "version v1" in seen.text("#meta") and " ms" in seen.text("#meta")
        assert seen.complaints == [] and seen.outside == []


def test_the_lines_that_are_shown_give_the_same_answer(chromium: Any, full: Endpoint) -> None:
    import json
    import subprocess

    text = "w5 'quoted' \"twice\" $HOME \\ w6"
    with opened(chromium, f"{full.url}/#text-classification") as seen:
        seen.page.wait_for_selector("#ask:not([disabled])")
        seen.page.fill("textarea", text)
        curl, python = seen.page.text_content("#curl"), seen.page.text_content("#python")
    wanted = full.ask("/models/text-classification", {"inputs": text}).document
    if shutil.which("curl"):
        done = subprocess.run(["sh", "-c", curl.replace("curl ", "curl -s ", 1)], capture_output=True, check=True)
        assert json.loads(done.stdout) == wanted
    namespace: dict[str, Any] = {}
    *setting, last = python.strip().splitlines()
    exec("\n".join([*setting, f"answer = {last}"]), namespace)
    assert [item.label for item in namespace["answer"]] == [item["label"] for item in wanted[0]]


def test_entities_are_marked_where_they_stand(chromium: Any, full: Endpoint) -> None:
    text = "w5 w6 \N{GRINNING FACE} w7 w8 w20"
    with opened(chromium, f"{full.url}/#token-classification") as seen:
        seen.page.wait_for_selector("#ask:not([disabled])")
        seen.page.fill("textarea", text)
        seen.ask()
        wanted = full.ask("/models/token-classification", {"inputs": text}).document
        marks = [mark.inner_text() for mark in seen.page.query_selector_all("mark")]
        assert [mark.rpartition(item["entity_group"])[0].strip() for mark, item in zip(marks, wanted, strict=True)] == [
            item["word"] for item in wanted
        ]
        assert seen.complaints == []


@pytest.mark.parametrize("task", ["object-detection", "semantic-segmentation", "anomaly-detection"])
def test_what_is_found_is_drawn_on_the_picture(task: str, chromium: Any, full: Endpoint, photo: str) -> None:
    with opened(chromium, f"{full.url}/#{task}") as seen:
        seen.page.wait_for_selector("#ask:not([disabled])")
        seen.ask()
        assert "Choose a picture" in seen.text("#answer")
        seen.page.set_input_files(".drop input", photo)
        seen.ask()
        seen.page.wait_for_selector("#answer canvas")
        changed = seen.page.evaluate(
            """async () => {
              const drawn = document.querySelector("#answer canvas");
              const image = await createImageBitmap(Object.values(files)[0]);
              const plain = new OffscreenCanvas(image.width, image.height).getContext("2d");
              plain.drawImage(image, 0, 0);
              const read = (pen) => pen.getImageData(0, 0, image.width, image.height).data;
              const one = read(drawn.getContext("2d")), other = read(plain);
              return one.filter((value, at) => value !== other[at]).length;
            }"""
        )
        assert changed > 100
        assert seen.text("#answer .key, #answer .none")
        assert seen.complaints == [] and seen.outside == []


def test_a_depth_map_is_shown_with_its_range(chromium: Any, full: Endpoint, photo: str) -> None:
    with opened(chromium, f"{full.url}/#depth-estimation") as seen:
        seen.page.wait_for_selector("#ask:not([disabled])")
        seen.page.set_input_files(".drop input", photo)
        seen.ask()
        seen.page.wait_for_selector("#answer img")
        shape = "(map => [map.naturalWidth, map.naturalHeight])(document.querySelector('#answer img'))"
        seen.page.wait_for_function("document.querySelector('#answer img').complete")
        assert seen.page.evaluate(shape) == [40, 30]
        assert "Distance: black is" in seen.text("#answer")
        assert seen.complaints == [] and seen.outside == []


def test_two_texts_a_number_and_a_summary(chromium: Any, full: Endpoint) -> None:
    with opened(chromium, f"{full.url}/#text-pair-regression") as seen:
        seen.page.wait_for_selector("#ask:not([disabled])")
        assert len(seen.page.query_selector_all("textarea")) == 2
        seen.ask()
        assert seen.text(".bar").startswith("target")
        assert not seen.page.query_selector(".track"), "a number is no share of anything"
        seen.page.select_option("#model", "summarization")
        seen.page.wait_for_selector("#ask:not([disabled])")
        seen.page.wait_for_function("document.querySelectorAll('textarea').length === 1")
        seen.ask()
        seen.page.wait_for_selector("#answer .text")
        assert seen.complaints == []


def test_what_is_refused_is_reported_in_words(chromium: Any, full: Endpoint) -> None:
    with opened(chromium, f"{full.url}/#text-classification") as seen:
        seen.page.wait_for_selector("#ask:not([disabled])")
        seen.page.fill("textarea", " ")
        seen.ask()
        assert "text is empty" in seen.text("#answer .wrong")


def test_labels_and_texts_are_never_markup(chromium: Any, full: Endpoint) -> None:
    evil = "<img src=x onerror=alert(1)><script>alert(1)</script> w5"
    with opened(chromium, f"{full.url}/#token-classification") as seen:
        seen.page.wait_for_selector("#ask:not([disabled])")
        seen.page.fill("textarea", evil)
        seen.ask()
        assert not seen.page.query_selector("#answer img, #answer script")
        assert seen.complaints == []


def test_a_key_is_asked_for_where_one_is_needed(chromium: Any, own: ModelStore, tmp_path: Path) -> None:
    append(tmp_path / "keys", ApiKey(sha256=hashed("opensesame")))
    with own.open(keys=str(tmp_path / "keys")) as endpoint, opened(chromium, endpoint.url) as seen:
        seen.page.wait_for_selector("#key-field:not([hidden])")
        seen.page.fill("#key", "opensesame")
        seen.page.press("#key", "Enter")
        seen.page.wait_for_selector("#ask:not([disabled])")
        seen.ask()
        assert seen.page.query_selector(".bar")
        assert "opensesame" not in seen.text("#curl") + seen.text("#python")


@pytest.mark.parametrize("width, scheme", [(390, "light"), (390, "dark"), (1180, "dark")])
def test_it_fits_a_phone_and_a_dark_screen(width: int, scheme: str, chromium: Any, full: Endpoint, photo: str) -> None:
    for task in ("object-detection", "text-classification"):
        with opened(chromium, f"{full.url}/#{task}", width, scheme) as seen:
            seen.page.wait_for_selector("#ask:not([disabled])")
            if task == "object-detection":
                seen.page.set_input_files(".drop input", photo)
            seen.ask()
            assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            ground = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (ground == "rgb(20, 24, 26)") == (scheme == "dark")


def test_the_documentation_shows_every_path_and_schema(chromium: Any, full: Endpoint) -> None:
    api = full.get("/openapi.json").document
    with opened(chromium, f"{full.url}/docs") as seen:
        seen.page.wait_for_selector("#schemas details")
        assert len(seen.page.query_selector_all("#paths details")) == sum(map(len, api["paths"].values()))
        assert len(seen.page.query_selector_all("#schemas details")) == len(api["components"]["schemas"])
        seen.page.click('summary:has-text("/models/text-classification")')
        assert '"maxItems": 64' in seen.text("#paths details[open]")
        assert seen.complaints == [] and seen.outside == []
