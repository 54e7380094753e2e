"""A file is the old one or the new one."""

import resource
import signal

import pytest

from safedpo_jax import checks
from safedpo_jax.train import atomic


def test_text_and_bytes_replace_the_file(tmp_path):
    path = tmp_path / "a.txt"
    atomic.write(path, "first äöü")
    assert path.read_text(encoding="utf-8") == "first äöü"
    atomic.write(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_write_that_fails_keeps_the_old_file_and_leaves_nothing(tmp_path):
    path = tmp_path / "a.txt"
    atomic.write(path, "old")
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(checks.UserError, match=r"Cannot write .*a\.txt: File too large\. Free disk space"):
            atomic.write(path, "x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_missing_folder_is_a_sentence(tmp_path):
    with pytest.raises(checks.UserError, match="No such file or directory"):
        atomic.write(tmp_path / "nowhere" / "a.txt", "x")
