"""What every source must be, the platform's own found by listing the folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from regraft.contracts import Source
from regraft.data.inputs import find_data_files
from regraft.errors import RegraftError


@pytest.fixture(params=Source.names())
def member(request: pytest.FixtureRequest) -> type[Source]:
    return Source.lookup(request.param)


def test_the_folder_is_not_empty() -> None:
    assert len(Source.names()) >= 15


def test_the_source_and_every_field_have_docs(member: type[Source]) -> None:
    assert member.__doc__ and member.__doc__ != Source.__doc__
    assert not [name for name, field in member.model_fields.items() if not field.description]


def test_a_dump_reads_back_equal(member: type[Source]) -> None:
    source = member.model_validate({})
    assert Source.parse(json.loads(json.dumps(source.model_dump(mode="json")))) == source


def test_suffixes_are_written_small_and_name_the_source_unless_several_share_one(member: type[Source]) -> None:
    others = [Source.lookup(name) for name in Source.names() if name != member.key()]
    taken = {suffix for other in others for suffix in other.suffixes}
    for suffix in member.suffixes:
        assert suffix.startswith(".") and suffix == suffix.lower()
        assert suffix in taken or member.model_validate({}).accepts(Path(f"rows{suffix.upper()}"))


def test_it_accepts_nothing_by_chance(member: type[Source], tmp_path: Path) -> None:
    assert not member.model_validate({}).accepts(tmp_path / "rows.of-no-kind")
    assert not member.model_validate({}).accepts(tmp_path)


def test_what_it_cannot_read_is_an_error_in_words_and_never_a_traceback(member: type[Source], tmp_path: Path) -> None:
    suffix = member.suffixes[0] if member.suffixes else ".rows"
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(b"\x00\xff\x93 nothing of the kind \x80\x81\n" * 5)
    try:
        for file in find_data_files(str(path), member.model_validate({}), tmp_path / "scratch"):
            for raw in file.rows():
                assert raw.where and isinstance(raw.values, dict)
    except RegraftError as error:
        assert len(str(error)) > 20
