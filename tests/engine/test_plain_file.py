"""Nothing that stands in a file's place holds its reader up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.engine.plain_file import read_plain_file


def test_no_more_is_read_than_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abcdef")
    assert read_plain_file(tmp_path / "file", at_most=4) == b"abcd"
    assert read_plain_file(tmp_path / "file", at_most=100) == b"abcdef"
    (tmp_path / "link").symlink_to("file")
    assert read_plain_file(tmp_path / "link", at_most=1) == b"a", "as mounted secrets are"


def test_what_is_no_file_is_an_error_at_once(tmp_path: Path) -> None:
    others = [tmp_path, tmp_path / "nothing"]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        others.append(tmp_path / "pipe")
    for path in others:
        with pytest.raises(OSError):  # noqa: PT011  (any will do)
            read_plain_file(path, at_most=10)
