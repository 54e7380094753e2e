"""Directories that appear whole or not at all. In a bucket, whose folders cannot be renamed, a directory is whole once its mark is there."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from safedpo_jax import checks, storage
from safedpo_jax.storage import AnyPath


def check_replaceable(target: AnyPath, what: str, mark: str) -> None:
    """Raises UserError unless `target` is absent, empty, or a directory with the file `mark`, which tells that it holds a `what`."""
    try:
        with storage.errors(target):
            if target.exists() and not target.is_dir():
                raise checks.UserError(f"{target} is a file; give a directory for the {what}.")
            # In a bucket a process may have been killed while it moved the files of `replacing`, the mark last.
            marked = (target / mark).is_file() or (storage.in_bucket(target) and (_partial(target) / mark).is_file())
            if target.is_dir() and not marked and storage.inside(target):
                raise checks.UserError(f"{target} holds other things than {_a(what)} and is not replaced; give a new or empty directory.")
    except OSError as error:
        raise checks.UserError(f"Cannot use {target} for the {what}: {error.strerror}.") from error


@contextlib.contextmanager
def replacing(target: AnyPath, what: str, mark: str, size: int) -> Iterator[AnyPath | None]:
    """Yields a new directory to be filled, which takes the place of `target` on leaving the context; None in all processes but the first.

    What was there goes only once its successor is complete. In a bucket the successor is complete under another name, then takes the
    place file by file, `mark` last. In a multi-process run every process enters, and none leaves before the directory is in place.

    Args:
      target: absolute path.
      what: what is written, for the message.
      mark: the file without which a directory holds no `what`.
      size: bytes of it, for the message.
    Raises:
      UserError: an OSError happened inside (full disk, no permission); nothing is left behind, unless a bucket failed during the move.
    """
    partial, writer, moving = _partial(target), jax.process_index() == 0, False
    try:
        if writer:
            storage.remove_tree(partial)  # of a run that was killed
            storage.make_directory(partial)
        yield partial if writer else None
        if writer:
            moving = storage.in_bucket(target)
            _swap(partial, target, mark)
            moving = False
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"wrote {target.name}")
    except OSError as error:
        left = f"What is not there is in {partial}" if moving else "Nothing was left behind; what was there is intact"
        raise checks.UserError(f"Could not write the {what} ({size / 1e9:.2f} GB) to {target}: {error}. {left}.") from error
    finally:
        if writer and not moving:
            with contextlib.suppress(OSError):
                storage.remove_tree(partial)


def _partial(target: AnyPath) -> AnyPath:
    return target.with_name(f".{target.name}.partial")


def _swap(partial: AnyPath, target: AnyPath, mark: str) -> None:
    if not isinstance(partial, Path):
        storage.remove_tree(target)
        storage.rename_folder(partial, target, last=mark)
        return
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    try:
        os.replace(partial, target)
    except OSError:
        if old.exists():
            os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _a(what: str) -> str:
    return f"{'an' if what[0] in 'aeiou' else 'a'} {what}"
