"""Specs that lie in S3, such as the one that an automatic run leaves in its store."""

from __future__ import annotations

from pathlib import Path

import pytest

from regraft.errors import RequestError
from regraft.spec.run import RunSpec
from regraft.store.bounded_yaml import MOST_BYTES
from regraft.store.objects import open_store

SPEC = "{name: r, base: some/base, task: text-classification, method: full, data: {train: rows.csv}}"


def test_a_spec_in_s3_is_read_within_the_bound_of_a_text(moto_url: str) -> None:
    store = open_store(moto_url)
    for name, data in (("spec", SPEC.encode()), ("large", b"#" * (MOST_BYTES + 1)), ("bytes", b"name: \xff")):
        store.put(f"specs/{name}.yaml", data)
    assert RunSpec.load(Path(f"{moto_url}/specs/spec.yaml")).name == "r"
    for name, said in (
        ("absent", "no such file"),
        ("large", "not readable as YAML"),
        ("bytes", "not readable as YAML"),
    ):
        with pytest.raises(RequestError, match=said) as refused:
            RunSpec.load(Path(f"{moto_url}/specs/{name}.yaml"))
        assert f"{moto_url}/specs/{name}.yaml" in str(refused.value)
