"""A file of keys that is broken, cut or gone: right entries count, and nothing that was taken back stays in force."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from regraft.endpoint.api_keys import ApiKeys, hashed, new_key, read_valid
from regraft.endpoint.http_errors import HttpError

BROKEN = (
    "- {name: carol, sha256: }", "- {name: carol", "- [1, 2", "- 7", "carol: x", "- {sha256: abc}",
    "- !!python/name:os.x",
    "\tx", "- {name: d, sha256: 0, models: 5}", "- &a [*a]", "- 'open", "- \x00", "}", "- {name: e, sha256: 1e999}",
)  # fmt: skip


def opens(keys: ApiKeys, key: str) -> bool:
    try:
        keys.check(f"Bearer {key}")
    except HttpError as error:
        assert error.status == 401
        return False
    return True


def looked_at(keys: ApiKeys, key: str) -> bool:
    """Return whether the key opens, after the second look that a file with mistakes gets."""
    opens(keys, key)
    return opens(keys, key)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regraft.endpoint.api_keys._RECHECK_S", 0.0)


@pytest.mark.parametrize("line", BROKEN)
def test_a_broken_line_keeps_the_others_and_revives_none(
    line: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, alice, bob = tmp_path / "keys.yaml", new_key(), new_key()
    lines = [f"- {{name: {name}, sha256: {hashed(key)}}}" for name, key in (("alice", alice), ("bob", bob))]
    path.write_text("\n".join(lines) + "\n")
    keys = ApiKeys.found(str(path))
    assert opens(keys, alice) and opens(keys, bob) and not keys.trouble()
    for text in (f"{lines[1]}\n{line}\n", f"{line}\n{lines[1]}\n"):
        path.write_text(text)
        assert not looked_at(keys, alice) and opens(keys, bob)
        assert keys.trouble() and hashed(bob) not in keys.trouble() and str(path) not in keys.trouble()
    assert any(str(path) in record.getMessage() for record in caplog.records)
    path.write_text("\n".join(lines) + "\n")
    assert opens(keys, alice) and not keys.trouble()


def test_a_half_written_file_takes_no_key_away_at_once(tmp_path: Path) -> None:
    path, alice = tmp_path / "keys.yaml", new_key()
    path.write_text(whole := f"- {{name: alice, sha256: {hashed(alice)}}}\n")
    keys = ApiKeys.found(str(path))
    path.write_text(whole[:30])
    assert opens(keys, alice)
    path.write_text(whole)
    assert opens(keys, alice) and not keys.trouble()


def test_a_key_that_was_taken_back_opens_nothing_though_nobody_asked_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, alice, bob = tmp_path / "keys.yaml", new_key(), new_key()
    lines = [f"- {{name: {name}, sha256: {hashed(key)}}}" for name, key in (("alice", alice), ("bob", bob))]
    path.write_text("\n".join(lines) + "\n")
    keys = ApiKeys.found(str(path))
    path.write_text(f"{lines[1]}\n- {{name: carol, sha256: }}\n")
    now = time.time() + 6
    monkeypatch.setattr("regraft.endpoint.api_keys.time.time", lambda: now)
    assert not opens(keys, alice), "the first request after six seconds"
    assert opens(keys, bob) and keys.trouble()


@pytest.mark.parametrize("end", ["gone", "a folder", "not UTF-8", "no entry that is right", "too large"])
def test_keys_of_a_file_that_cannot_be_read_end_in_the_stated_time(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, alice = tmp_path / "keys.yaml", new_key()
    path.write_text(whole := f"- {{name: alice, sha256: {hashed(alice)}}}\n")
    now = [1000.0]
    monkeypatch.setattr("regraft.endpoint.api_keys.time.monotonic", lambda: now[0])
    keys = ApiKeys.found(str(path), gone_seconds=60)
    path.unlink()
    match end:
        case "a folder":
            path.mkdir()
        case "not UTF-8":
            path.write_bytes(b"\xff\xfe\x00")
        case "no entry that is right":
            path.write_text("- {broken")
        case "too large":
            monkeypatch.setattr("regraft.endpoint.api_keys.MAX_FILE_BYTES", 10)
            path.write_text(whole)
    for after, open_ in ((0, True), (59, True), (60, False), (600, False)):
        now[0] = 1000.0 + after
        assert looked_at(keys, alice) is open_, after
        assert "stay in force for 60 seconds" in keys.trouble() if open_ else "no key is accepted" in keys.trouble()
    if end == "a folder":
        path.rmdir()
    monkeypatch.setattr("regraft.endpoint.api_keys.MAX_FILE_BYTES", 1 << 20)
    path.write_text(whole)
    assert looked_at(keys, alice) and not keys.trouble()


def test_an_empty_list_takes_every_key_back(tmp_path: Path) -> None:
    path, alice = tmp_path / "keys.yaml", new_key()
    path.write_text(f"- {{name: alice, sha256: {hashed(alice)}}}\n")
    keys = ApiKeys.found(str(path))
    path.write_text("[]\n")
    assert not opens(keys, alice)


def test_seeded_damage_opens_for_no_stranger() -> None:
    draw = random.Random(0)
    text = "".join(f"- {{name: k{n}, sha256: {hashed(str(n))}, models: [m{n}]}}\n" for n in range(4))
    known = {hashed(str(n)): (f"m{n}",) for n in range(4)}
    for _ in range(300):
        at = draw.randrange(len(text))
        damaged = text[:at] + draw.choice(["", "\n", "{", "}", "[", '"', "#", "- ", ": ", "&a ", "*a"]) + text[at + 1 :]
        keys, _ = read_valid(damaged, "keys")
        for key in keys:
            if key.sha256 in known and key.models is None:
                raise AssertionError(f"a limited key opens everything: {damaged!r}")
