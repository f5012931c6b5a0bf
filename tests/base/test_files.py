from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from asteady._base import files
from asteady._base.files import recall, remember


def test_what_was_remembered_is_recalled(tmp_path: Path) -> None:
    file = tmp_path / "new" / "facts.json"
    assert recall(file, "a") is None
    remember(file, "a", {"x": 1})
    remember(file, "b", [2])
    assert recall(file, "a") == {"x": 1}
    assert recall(file, "b") == [2]


def test_the_file_is_for_the_user_alone_and_nothing_else_is_left(tmp_path: Path) -> None:
    file = tmp_path / "new" / "facts.json"
    remember(file, "a", 1)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert os.listdir(file.parent) == ["facts.json"]


@pytest.mark.parametrize("content", ["", "{", "[1]", "\xff"])
def test_a_broken_file_counts_as_empty_and_is_replaced(tmp_path: Path, content: str) -> None:
    file = tmp_path / "facts.json"
    file.write_bytes(content.encode("latin-1"))
    assert recall(file, "a") is None
    remember(file, "a", 1)
    assert recall(file, "a") == 1


def test_a_disk_that_takes_nothing_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    file = tmp_path / "facts.json"
    remember(file, "a", 1)
    assert recall(file, "a") is None
    assert os.listdir(tmp_path) == []


def test_only_so_many_entries_are_kept_and_the_oldest_go_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_MAX_ENTRIES", 2)
    file = tmp_path / "facts.json"
    for key in "aba":
        remember(file, key, key)
    remember(file, "c", "c")
    assert [recall(file, key) for key in "abc"] == ["a", None, "c"]


def test_a_file_is_private_unless_it_is_for_everybody(tmp_path: Path) -> None:
    for private, mode in ((True, 0o600), (False, 0o644)):
        umask = os.umask(0o022)
        try:
            with files.atomic_write(tmp_path / "file", private=private) as file:
                file.write(b"data")
        finally:
            os.umask(umask)
        assert (tmp_path / "file").read_bytes() == b"data"
        assert (tmp_path / "file").stat().st_mode & 0o777 == mode
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_that_is_not_finished_leaves_the_old_one(tmp_path: Path) -> None:
    path = files.write_atomically(tmp_path / "file", b"old")
    with pytest.raises(ZeroDivisionError), files.atomic_write(path):
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    with pytest.raises(FileNotFoundError, match="no/file"):
        files.write_atomically(tmp_path / "no" / "file", b"")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
