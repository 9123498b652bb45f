"""Dispatch table from commands to functions: the one place of the command line that imports late.

A command's module is imported when the command runs, and training only once the spec is valid. A wrong request is
answered at once, not after torch, transformers and Ray were imported.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

Target = str | Callable[..., Any]

TABLE: dict[str, Target] = {
    "train": "regraft.cli.train:train",
    "evaluate": "regraft.cli.evaluate:evaluate",
    "predict": "regraft.cli.predict:predict",
    "teach": "regraft.cli.teach:teach",
    "search": "regraft.cli.search:search",
    "adapt": "regraft.cli.adapt:adapt",
    "auto": "regraft.cli.auto:auto",
    "plan": "regraft.cli.planning:plan",
    "select": "regraft.cli.select:select",
    "models list": "regraft.cli.models:listing",
    "models show": "regraft.cli.models:show",
    "models promote": "regraft.cli.models:promote",
    "models rollback": "regraft.cli.models:rollback",
    "models diff": "regraft.cli.models:diff",
    "models delete": "regraft.cli.models:delete",
    "models export": "regraft.cli.export:export",
    "serve": "regraft.cli.serve:serve",
    "key": "regraft.cli.serve:key",
    "runs list": "regraft.cli.runs:listing",
    "runs show": "regraft.cli.runs:show",
    "runs stop": "regraft.cli.runs:stop",
    "runs logs": "regraft.cli.runs:logs",
    "runs delete": "regraft.cli.runs:delete",
    "show": "regraft.cli.show:show",
    "schema": "regraft.cli.schema:schema",
    "doctor": "regraft.cli.doctor.command:doctor",
    "gc": "regraft.cli.gc:collect",
    "version": "regraft.cli.version:show",
}
"""Command to module:function, which takes (arguments, screen) and returns a Reply."""

WORK: dict[str, Target] = {
    "train": "regraft:train",
    "search": "regraft:search",
    "adapt": "regraft:adapt",
    "auto": "regraft:auto",
    "plan": "regraft:plan",
    "select": "regraft:select",
    "evaluate": "regraft.evaluation.evaluate:evaluate",
    "evaluate several": "regraft.evaluation.several:evaluate_several",
    "evaluate episodes": "regraft.evaluation.episodes:evaluate_episodes",
    "predict": "regraft:predict",
    "teach": "regraft.teaching.teach:teach",
    "export": "regraft.serving.export:export",
    "serve": "regraft.cluster.serve:serving",
    "serve here": "regraft.endpoint.server:serving",
    "cluster": "regraft.cluster.job_api:Cluster",
    "job package": "regraft.cluster.job_package:JobPackage",
    "pack train": "regraft.cluster.job_package:pack_train",
    "pack search": "regraft.cluster.job_package:pack_search",
    "pack predict": "regraft.cluster.job_package:pack_predict",
    "pack doctor": "regraft.cluster.job_package:pack_doctor",
    "cluster checks": "regraft.cli.doctor.cluster_checks:cluster_checks",
}
"""Heavy work that a command starts once its arguments are checked."""


def function(target: Target) -> Callable[..., Any]:
    """Import the module of an entry and return the function that it names."""
    if callable(target):
        return target
    module, _, name = target.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found
