"""Messages of the data floor name the settings as their reader knows them."""

from __future__ import annotations

import pytest

from regraft.data.setting_names import with_names


def test_settings_are_named_as_the_caller_has_them() -> None:
    names = {"data.columns": "--columns", "data.bad_rows: skip": "--bad-rows skip"}
    message = "write data.bad_rows: skip, or write in data.columns what they are called; data.format stays"
    assert with_names(message, names) == (
        "write --bad-rows skip, or write in --columns what they are called; data.format stays"
    )
    assert with_names(message, {}) == message


def test_a_setting_that_no_message_names_is_refused() -> None:
    with pytest.raises(KeyError, match="colums"):
        with_names("x", {"data.colums": "columns"})
