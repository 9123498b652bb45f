"""A wrong request gives exit code 2 and a helpful message without a traceback; with --json one object."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from doubles.fake_training import DOCUMENT, FakeTraining, Regraft, publish
from regraft.errors import Diverged
from regraft.store.objects import ObjectStore
from support.paths import PLATFORM, ROOT

WRONG = {
    "no command": ([], "required: COMMAND"),
    "unknown command": (["trian"], "unknown 'trian'. Did you mean train?"),
    "unknown sub-command": (["models", "shw"], "Did you mean show?"),
    "unknown option": (["train", "spec.yaml", "--frsh"], "Did you mean --fresh?"),
    "no spec": (["train"], "required: SPEC"),
    "no such file": (["train", "nope.yaml"], "nope.yaml: there is no such file"),
    "a folder": (["train", "."], "is not readable as YAML"),
    "--set without =": (["train", "spec.yaml", "--set", "training.lr"], "what is allowed is key=value"),
    "--set no YAML": (["train", "spec.yaml", "--set", "training.lr=["], "--set training.lr: '[' is not a YAML value"),
    "--set unknown key": (["train", "spec.yaml", "--set", "trainig.lr=1"], "Did you mean 'training'?"),
    "--set below a value": (["train", "spec.yaml", "--set", "name.first=1"], "name is 'tickets', which has no fields"),
    "--set wrong value": (["train", "spec.yaml", "--set", "training.epochs=0"], "training.epochs: 0 is written"),
    "two stores": (["train", "spec.yaml", "--store", "a", "--set", "store=b"], "keep one"),
    "unknown method": (["train", "spec.yaml", "--set", "method=loar"], "Did you mean 'lora'?"),
    "no such plugin folder": (["train", "spec.yaml", "--set", "plugins=nowhere"], "is not a plugin folder"),
    "unknown family": (["show", "taks"], "Did you mean tasks?"),
    "unknown task": (["show", "tasks", "text-clasification"], "Did you mean 'text-classification'?"),
    "plugin folder of show": (["show", "tasks", "--plugins", "nowhere"], "is not a plugin folder"),
    "unknown model": (["models", "show", "tickest", "--store", "store"], "did you mean 'tickets'?"),
    "unknown version": (["models", "show", "tickets@v9", "--store", "store"], "there are v1"),
    "bad reference": (["models", "show", "Tickets!", "--store", "store"], "model name 'Tickets!'"),
    "promote nothing exact": (["models", "promote", "tickets", "production", "--store", "store"], "tickets@v1"),
    "bad alias": (["models", "promote", "tickets@v1", "v7", "--store", "store"], "would read as a version"),
    "rollback unknown": (["models", "rollback", "tickets", "production", "--store", "store"], "alias 'production'"),
    "delete no terminal": (["models", "delete", "tickets@v1", "--store", "store"], "--yes"),
    "unknown run": (["runs", "show", "tickets-1", "--store", "store"], "run 'tickets-1' does not exist"),
    "unknown store scheme": (["models", "list", "--store", "s4://bucket"], "unknown scheme"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("form", ["people", "json"])
def test_what_is_asked_wrong_is_2(
    case: str, form: str, regraft: Regraft, spec: Path, store: ObjectStore, training: FakeTraining
) -> None:
    publish(store)
    argv, told = WRONG[case]
    if form == "people":
        result = regraft(*argv)
        assert result.out == ""
        assert result.err.startswith("error: ")
        assert told in result.err
        assert "Traceback" not in result.err
    else:
        result = regraft(*argv, "--json")
        error = result.document["error"]
        assert set(error) == {"kind", "message", "where"}
        assert told in f"{error['where']}: {error['message']}"
    assert result.code == 2
    assert training.calls == []


def test_all_problems_of_a_spec_are_reported_at_once(regraft: Regraft, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump({**DOCUMENT, "trainin": {}, "compute": {"wrkers": 2}, "method": "loar"}))
    result = regraft("train", path)
    assert result.code == 2
    assert f"{path}: 3 problems:" in result.err
    for nearest in ("'training'", "'workers'", "'lora'"):
        assert f"Did you mean {nearest}?" in result.err


@pytest.mark.parametrize("text", ["name: [", "- a\n- b", "\tname: x", "\x00"])
def test_what_is_no_yaml_mapping_is_reported_with_the_file(text: str, regraft: Regraft, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    result = regraft("train", path)
    assert result.code == 2
    assert result.err.startswith(f"error: {path}: ")


def test_a_failure_of_training_is_1(regraft: Regraft, spec: Path, training: FakeTraining) -> None:
    training.error = Diverged("the loss is nan at step 7: lower training.lr", "tickets-1")
    result = regraft("train", spec)
    assert (result.code, result.err) == (1, "error: tickets-1: the loss is nan at step 7: lower training.lr\n")
    assert regraft("train", spec, "--json").document == {
        "error": {"kind": "Diverged", "message": training.error.message, "where": "tickets-1"}
    }


def test_what_nobody_expected_is_one_line_and_a_traceback_on_request(
    regraft: Regraft, spec: Path, training: FakeTraining
) -> None:
    training.error = ZeroDivisionError("division by zero\nand more")
    result = regraft("train", spec)
    assert (result.code, result.out) == (1, "")
    assert result.err.splitlines() == [
        "error: ZeroDivisionError: division by zero",
        "run again with -v for the traceback",
    ]
    assert "Traceback (most recent call last)" in regraft("train", spec, "-v").err
    assert "Traceback (most recent call last)" in regraft("-v", "train", spec).err


def test_an_interruption_is_130_and_one_line(regraft: Regraft, spec: Path, training: FakeTraining) -> None:
    training.error = KeyboardInterrupt()
    result = regraft("train", spec)
    assert result.code == 130
    assert result.err.count("\n") == 1
    assert "interrupted" in result.err


REPLACED = """
import atexit, os, signal, sys, time
from regraft.cli import console, dispatch
from regraft.cli.screen import Reply

def command(args, screen):
    {body}
    return Reply(code={code})

dispatch.TABLE["version"] = command
sys.exit(console(["version"]))
"""


def process_of(body: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command whose body is given in a process of its own."""
    command = [sys.executable, "-c", REPLACED.format(body=body, code=code)]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": str(PLATFORM)}, capture_output=True, text=True)


def test_an_interrupt_within_code_that_is_run_as_text_is_130_too() -> None:
    """As dataclasses and extension modules do while they are imported: Python would end by the signal."""
    done = process_of("exec('raise KeyboardInterrupt')")
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize("code", [0, 1, 130])
def test_an_interrupt_while_the_process_ends_leaves_at_once_with_its_code(code: int) -> None:
    done = process_of("atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT) or time.sleep(300))", code)
    assert (done.returncode, done.stderr) == (code, "")


def test_with_json_stdout_holds_one_object_whatever_others_print(
    regraft: Regraft, spec: Path, training: FakeTraining
) -> None:
    def noise() -> None:
        print("a library prints")
        sys.__stdout__.write("and another, past our redirection\n") if sys.__stdout__ else None
        subprocess.run(["sh", "-c", "echo a child prints"], check=True)

    training.before = noise
    training.outcome = {"metrics": {"accuracy": float("nan")}}
    result = regraft("train", spec, "--json")
    assert result.code == 0
    assert result.document["metrics"] == {"accuracy": None}
    assert "a library prints" in result.err
    assert "a child prints" in result.err


def test_without_json_stdout_is_for_the_result(regraft: Regraft, store: ObjectStore) -> None:
    publish(store)
    result = regraft("models", "list", "--store", store.url)
    assert "tickets" in result.out
    assert result.err == ""


def test_warnings_of_ours_are_shown_and_those_of_libraries_are_not(
    regraft: Regraft, spec: Path, training: FakeTraining
) -> None:
    def noise() -> None:
        logging.getLogger("regraft.training.loop").warning("a checkpoint was damaged")
        logging.getLogger("botocore.hooks").warning("a hook was renamed")

    training.before = noise
    result = regraft("train", spec)
    assert result.err == "warning: a checkpoint was damaged\n"
    assert "a hook was renamed" in regraft("train", spec, "-v").err


def test_a_reader_that_leaves_early_gets_no_traceback(store: ObjectStore) -> None:
    publish(store)
    platform = ROOT / "platform"
    command = f"{sys.executable} -m regraft models show tickets --store {store.url} | true"
    done = subprocess.run(
        ["sh", "-c", command],
        env={"PYTHONPATH": str(platform), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
