"""What every test runs under; set before anything reads it."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from support.browser import Look

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RAY_AUTH_MODE"] = "token"  # Ray reads it when it is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")
for variable in ("REGRAFT_STORE", "RAY_ADDRESS"):
    os.environ.pop(variable, None)

CACHE = "" if "PYTEST_XDIST_WORKER" in os.environ else tempfile.mkdtemp(prefix="regraft-tests-")
"""The cache of all processes of these tests, made by the first: none of them reads or fills the user's own."""
if CACHE:
    os.environ["REGRAFT_CACHE"] = CACHE

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")

# A shell's background job ignores Ctrl-C, and what is tested here hands it on.
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_left_out: set[str] = set()


@pytest.fixture(autouse=True)
def as_quiet_as_before() -> Iterator[None]:
    """A command that ran in this process leaves no later one more talkative, or more silent, than it was."""
    loggers = [logging.getLogger(), logging.getLogger("regraft")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless Chromium, the only one of a process: Playwright starts no second; skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"none of {', '.join(CHROMIUM)} is installed")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def browser(chromium: Any) -> Look:
    """Opens pages in it."""
    return Look(chromium)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests on Ray last: Ray and the plugins of its tests stay in the process for all that follow."""
    items.sort(key=lambda item: "tests/cluster/" in item.nodeid)


def pytest_unconfigure() -> None:
    """Remove the cache of these tests."""
    if CACHE:
        shutil.rmtree(CACHE, ignore_errors=True)


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Remember what a run leaves out; with several processes each collects everything."""
    _left_out.update(item.nodeid for item in items if item.get_closest_marker("slow"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the names to the process that prints."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = sorted(_left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the names from a process that has ended."""
    _left_out.update(getattr(node, "workeroutput", {}).get("left_out", ()))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say how many tests were left out, and how to run them."""
    if _left_out and config.option.markexpr == "not slow and not long":
        terminalreporter.write_line(f"{len(_left_out)} slow tests deselected (run them with: pytest -m slow)")
