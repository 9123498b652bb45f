"""Live progress moves one line, with lasting lines above it; plain progress stays sparse."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest

from regraft.cli.screen import Screen
from regraft.cli.train_progress import TrainDisplay, TrainLog, following
from unit.cli.test_train import EVENTS


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """Return a screen of 80 columns on a terminal. Its stream is set here: pytest replaces sys.stdout later."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", Terminal())
        return Screen()


def shown(screen: Screen) -> str:
    """Return everything that reached the terminal."""
    assert isinstance(screen.stream, Terminal)
    return screen.stream.getvalue()


def plain(text: str) -> str:
    """Return text without escape sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_a_terminal_gets_a_line_that_moves(screen: Screen) -> None:
    with following(screen) as progress:
        assert isinstance(progress, TrainDisplay)
        for event in EVENTS:
            progress(event)
            progress._bar.refresh()
    told = plain(shown(screen))
    assert "2/4  epoch 0.5  loss 1.2500  310 rows/s  12 s left" in told
    assert "step 2  epoch 1  accuracy 0.8000" in told
    assert "checkpoint at" not in told


def test_the_live_line_shows_the_last_evaluation(screen: Screen) -> None:
    step = replace(EVENTS[3], step=3)
    with TrainDisplay(screen) as progress:
        for event in (*EVENTS[:5], step):
            progress(event)
        progress._bar.refresh()
    assert "3/4  epoch 0.5  loss 1.2500  accuracy 0.8000  310 rows/s" in plain(shown(screen))


def test_a_run_that_starts_again_after_lost_workers_goes_on(screen: Screen) -> None:
    with TrainDisplay(screen) as progress:
        for event in (*EVENTS, *EVENTS):
            progress(event)
    assert plain(shown(screen)).count("step 2  epoch 1  accuracy 0.8000") == 2


def test_step_lines_of_a_log_are_seconds_apart(capsys: pytest.CaptureFixture[str]) -> None:
    step = EVENTS[3]
    sparse, eager = TrainLog(Screen(), every_s=3600), TrainLog(Screen(), every_s=0)
    for _ in range(5):
        sparse(step)
    assert capsys.readouterr().out == ""
    eager(step)
    assert capsys.readouterr().out == "step 2/4  epoch 0.5  loss 1.2500  310 rows/s  12 s left\n"


def test_checkpoints_are_reported_when_everything_is(capsys: pytest.CaptureFixture[str]) -> None:
    TrainLog(Screen(verbose=True))(EVENTS[6])
    assert capsys.readouterr().out == "checkpoint at step 2: 1.0 kB, training stood 0.010 s\n"


def test_what_a_terminal_obeys_is_not_passed_on(screen: Screen) -> None:
    screen.say("label \x1b[2Jerased")
    screen.table(("name",), [("\x1b]0;title\x07",)])
    screen.facts([("labels", "a\rb")])
    assert "\x1b[2J" not in shown(screen)
    assert "\x1b]0" not in shown(screen)
    assert "\r" not in shown(screen)


def test_markup_in_names_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.say("[red]x[/red] [/]")
    screen.table(("[bold]",), [("[red]y",)])
    assert "[red]x[/red] [/]" in capsys.readouterr().out
