"""The page of a search is self-contained, correct in unusual cases, and safe against hostile overrides."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from regraft.tuning.pages.page import write_report
from regraft.tuning.records import SearchRecord, TrialRecord, best_first
from support.browser import Look
from support.paths import ROOT
from unit.tuning.sample_records import search, trial, trials

HOSTILE = "</script><script>alert(1)</script>\"><img src=x onerror=alert(2)>'</style></svg><b>$x_1$"
SCREENS = pytest.mark.parametrize(("width", "scheme"), [(1180, "light"), (1180, "dark"), (390, "light"), (390, "dark")])
WORDS = ("h1", "h2", ".title", ".lede", ".note", "nav a", ".facts dt", "td", "td.error", ".point i", "code", "svg text")


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Write the report of 24 trials of three methods, the best one registered."""
    record, made = search(), trials()
    best = best_first(made, record.score)[0]
    best.registered, record.winner = "sentiment@v3", best.id
    return write_report(record, made, tmp_path_factory.mktemp("usual") / "deeper")


def page(folder: Path, record: SearchRecord, made: list[TrialRecord]) -> str:
    return write_report(record, made, folder)[0].read_text(encoding="utf-8")


def of(number: int, score: float | None, **changes: Any) -> TrialRecord:
    return replace(trial(number, "lora", epochs=0), best={"accuracy": score} if score is not None else None, **changes)


def test_a_page_and_its_pictures_are_written(usual: list[Path]) -> None:
    assert [path.name for path in usual] == ["report.html", "depth.png", "learning-rate.png", "learning-curves.png"]
    assert sorted(path.name for path in usual[0].parent.iterdir()) == sorted(path.name for path in usual)
    for path in usual[1:]:
        with Image.open(path) as image:
            assert image.format == "PNG" and image.width == 2000 and 800 <= image.height <= 2400
            assert len(set(image.convert("L").resize((200, 100)).tobytes())) > 10, "something is drawn"
        assert path.stat().st_size < 500_000
    assert usual[0].stat().st_size < 500_000


def test_nothing_is_fetched_and_nothing_runs(usual: list[Path]) -> None:
    text = usual[0].read_text(encoding="utf-8")
    assert "default-src 'none'" in text and "<script" not in text
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']*""", text)
    assert not re.findall(r"url\((?!#)", text) and "@import" not in text
    assert set(re.findall(r"https?://[^\"'\s<]*", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_pictures_in_the_page_take_its_colours(usual: list[Path]) -> None:
    drawn = re.findall(r"<svg.*?</svg>", usual[0].read_text(encoding="utf-8"), re.S)
    assert len(drawn) == 6
    for picture in drawn:
        assert "var(--right)" in picture and "var(--font)" in picture
        assert re.findall(r"#[0-9a-f]{6}\b(?=[;\"])", picture) == []
    ids = re.findall(r' id="([^"]+)"', "".join(drawn))
    assert len(ids) == len(set(ids)), "one picture's marks never stand in another"


@SCREENS
def test_a_browser_shows_everything(browser: Look, usual: list[Path], width: int, scheme: str) -> None:
    with browser(usual[0], width=width, scheme=scheme) as seen:
        assert seen.complaints == [] and seen.requests == []
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
        assert seen.visible("svg.drawn") == 3
        assert seen.visible("svg.drawn.narrow") == (3 if width < 640 else 0)
        words = seen.page.text_content("svg.drawn.narrow" if width < 640 else "svg.drawn.wide")
        for text in ("knee: 4 of 6 blocks frozen", "seconds per trial", "trainable share, %", "lora"):
            assert text in words
        assert "The knee is at 4 of 6 blocks frozen" in seen.page.inner_text(".hero")
        assert seen.visible("section#trials tbody tr") == 24 + 2, "an error, and a line above the stopped ones"
        contrasts = seen.contrasts(WORDS)
    assert len(contrasts) == len(WORDS) and min(contrasts.values()) >= 4.5, contrasts


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_nothing_is_cut(browser: Look, usual: list[Path], width: int) -> None:
    with browser(usual[0], width=width) as seen:
        assert seen.cut() == []
        assert width < 1280 or seen.scrolling() == [], "every table is wholly on the screen"


def test_words_in_pictures_stay_apart(browser: Look, usual: list[Path]) -> None:
    """On small and large screens no texts of a picture overlap, and none is cut off."""
    for width in (1180, 390):
        with browser(usual[0], width=width) as seen:
            assert seen.page.evaluate(OVERLAPS) == []


def test_hostile_words_are_words(browser: Look, tmp_path: Path) -> None:
    made = [
        replace(
            trial(number, "lora"),
            overrides={
                "method": {"type": f"x{HOSTILE}"} if number % 2 else "lora",
                "training.lr": 10.0**-number,
                HOSTILE: HOSTILE * 20,
                f"training.{HOSTILE}": number,
            },
            error=HOSTILE if number == 3 else None,
            registered=HOSTILE if number == 2 else None,
        )
        for number in range(1, 6)
    ]
    score = {"name": f"accuracy{HOSTILE}", "mode": "max"}
    for item in made:
        item.best = {score["name"]: 0.5 + item.number / 100}
        item.reports = [{"step": 1, "epoch": 1.0, "metrics": item.best, "seconds": 1.0}]
    record = search(name=HOSTILE, model=HOSTILE, base=HOSTILE, store=f"/x/{HOSTILE}", sampler=HOSTILE, score=score)
    record.space, record.shared = {HOSTILE: {"choice": [HOSTILE]}}, {"why": HOSTILE, HOSTILE: [HOSTILE]}
    text = page(tmp_path, record, made)
    assert "<script" not in text and "<img" not in text and text.count("</style>") == 1
    with browser(tmp_path / "report.html") as seen:
        assert seen.complaints == [] and seen.requests == []
        assert seen.page.evaluate("document.scripts.length + document.images.length") == 0
        assert HOSTILE in seen.page.inner_text("h1") and seen.visible("svg.drawn") == 4
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= 1180


@pytest.mark.slow
def test_long_searches_fold_their_table(browser: Look, tmp_path: Path) -> None:
    write_report(search(trials=200), trials(200), tmp_path)
    assert (tmp_path / "report.html").stat().st_size < 1_500_000
    with browser(tmp_path / "report.html", width=390) as seen:
        assert seen.visible("section#trials .card > .scroll tbody tr") == 40
        assert "The other 160 trials" in seen.page.inner_text("details.more summary")
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= 390
        seen.page.click("details.more summary")
        assert seen.visible("section#trials tbody tr") >= 200


def test_trials_are_reported_best_first_with_all_that_is_known(usual: list[Path]) -> None:
    text = usual[0].read_text(encoding="utf-8")
    table = text[text.index('id="trials"') :]
    whole, apart = table.split("Stopped before their end")
    for part, count in ((whole, 15), (apart, 8)):
        shown = [
            float(found) for found in re.findall(r'<td>t\d+.*?</td><td class="num">(?:<i.*?</i> )?(0\.\d+)</td>', part)
        ]
        assert len(shown) == count and shown == sorted(shown, reverse=True)
    assert "the loss is not a number at step 41" in table
    assert "<b>sentiment@v3</b>" in table
    assert "regraft predict sentiment@v3 rows.csv" in text
    assert "computed for 872 of them, found again from earlier runs for 2,000; 291.0 MB on disk" in text
    assert "That saved 7 min 11 s of computing" in text


def test_another_store_is_named_in_commands(tmp_path: Path) -> None:
    assert "--store" not in page(tmp_path, search(), [trial(1)])
    assert "regraft search SPEC --register t0001 --store s3://bucket/models" in page(
        tmp_path, search(store="s3://bucket/models"), [trial(1)]
    )


def test_one_trial_has_no_depth_to_choose_by(tmp_path: Path) -> None:
    text = page(tmp_path, search(shared={}), [trial(1)])
    assert "All trials are of one kind, full" in text and "Is less enough?" not in text
    assert "Nothing was shared" in text and not (tmp_path / "depth.png").exists()


def test_no_trial_yet(tmp_path: Path) -> None:
    files = write_report(search(state="running"), [], tmp_path)
    text = files[0].read_text()
    assert len(files) == 1 and "still running" in text and "No trial has a result yet." in text
    assert 'id="trials"' not in text and "--register" not in text


def test_all_failed(tmp_path: Path) -> None:
    made = [of(number, None, status="failed", error=f"out of memory {number}", checkpoint=None) for number in (1, 2)]
    files = write_report(search(state="failed"), made, tmp_path)
    text = files[0].read_text()
    assert len(files) == 1 and "2 failed" in text and "ended by an error" in text
    assert "out of memory 1" in text and "beneath each of them" in text


def test_pictures_without_grounds_go(tmp_path: Path) -> None:
    write_report(search(), trials(12), tmp_path)
    assert (tmp_path / "depth.png").exists()
    write_report(search(), [trial(1)], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["learning-curves.png", "report.html"]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_equal_values_and_values_that_are_none(tmp_path: Path, mode: str) -> None:
    made = [of(1, 0.75), of(2, 0.75, overrides={"method": "full"}), of(3, math.nan), of(4, None)]
    made.append(replace(of(5, 0.75), reports=[{"step": 1, "epoch": None, "metrics": {"accuracy": None}, "seconds": 1}]))
    text = page(tmp_path, search(score={"name": "accuracy", "mode": mode}), made)
    assert "0.750" in text and "nan" not in re.sub(r"<style.*?</style>", "", text, flags=re.S).lower()
    assert ("smaller is better" in text) == (mode == "min")


def test_a_score_far_off_leaves_the_others_to_be_seen(tmp_path: Path) -> None:
    made = [of(number, 2.0 + number / 100, overrides={"training.lr": 10.0**-number}) for number in range(1, 6)]
    made.append(of(6, 1e9, overrides={"training.lr": 1.0}))
    text = page(tmp_path, search(score={"name": "accuracy", "mode": "min"}), made)
    ticks = [float(tick) for tick in re.findall(r"<text[^>]*>(\d\.\d+)</text>", text)]
    assert ticks and max(ticks) < 3


def test_other_numbers_have_their_own_picture(tmp_path: Path) -> None:
    made = [
        replace(trial(n, "lora"), overrides={"training.weight_decay": n / 100, "training.schedule": "cosine"})
        for n in range(1, 5)
    ]
    files = write_report(search(), made, tmp_path)
    assert [path.name for path in files] == ["report.html", "searched-numbers.png", "learning-curves.png"]
    assert "weight_decay" in files[0].read_text()


def test_only_drawing_imports_matplotlib() -> None:
    look = (
        "import regraft.tuning.pages.by_depth, regraft.tuning.records, regraft.evaluation.page, regraft.cli, sys;"
        "print('matplotlib' in sys.modules)"
    )
    root = ROOT / "platform"
    done = subprocess.run([sys.executable, "-c", look], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    users = {
        path.stem for path in root.rglob("*.py") if re.search(r"^(import|from) matplotlib", path.read_text(), re.M)
    }
    assert users == {"svg", "score_axes", "depth_plot", "curve_plots"}


OVERLAPS = """() => {
  const found = [];
  for (const picture of document.querySelectorAll('svg.drawn')) {
    const edge = picture.getBoundingClientRect();
    if (!edge.width) continue;
    const words = [...picture.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
    for (const [text, box] of words)
      if (Math.max(edge.left - box.left, box.right - edge.right, edge.top - box.top, box.bottom - edge.bottom) > 6)
        found.push(`${text} is cut off`);
    words.forEach(([one, a], place) => words.slice(place + 1).forEach(([other, b]) => {
      if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3)
        found.push(`${one} on ${other}`);
    }));
  }
  return found;
}"""


def of_bases() -> tuple[SearchRecord, list[TrialRecord]]:
    """Return a search of three bases, of which one has no trial."""
    names = ["/bases/minilm", "/bases/mpnet", "/bases/idle"]
    known: dict[str, dict[str, Any]] = {name: {"hash": str(number)} for number, name in enumerate(names)}
    known[names[1]]["baselines"] = {"nearest_centroid": {"accuracy": 0.777}}
    made = [
        replace(one, overrides={"base": names[number % 2], **one.overrides}, blocks=(6, 12)[number % 2])
        for number, one in enumerate(trials(14))
    ]
    return search(bases=known, base=names[0]), made


def test_a_page_of_several_bases_groups_by_base(tmp_path: Path) -> None:
    (tmp_path / "depth-7.png").touch()  # of an earlier page, with more results
    text = page(tmp_path, *of_bases())
    section = text.partition('id="bases"')[2].partition("</section>")[0]
    assert re.findall(r'title="(/bases/[a-z]+)"', section)[2] == "/bases/idle", "a base without a trial comes last"
    assert "0.777" in section and "no trial" in section
    assert {path.name for path in tmp_path.glob("depth*.png")} == {"depth-1.png", "depth-2.png"}
    assert "blocks frozen of mpnet" in text and "3 bases" in text
    assert "/bases/mpnet" not in text.partition('id="trials"')[2].partition("</section>")[0], "names are short there"


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_of_several_bases_is_cut(browser: Look, tmp_path: Path, width: int) -> None:
    write_report(*of_bases(), tmp_path)
    with browser(tmp_path / "report.html", width=width) as seen:
        assert seen.cut() == [] and seen.complaints == []
        assert width < 1280 or seen.scrolling() == []
        assert min(seen.contrasts((*WORDS, "#bases td", "#bases th")).values()) >= 4.5
        assert seen.page.evaluate(OVERLAPS) == []
