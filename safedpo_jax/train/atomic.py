"""Files that are either the old one or the new one, never half of it."""

import contextlib
import os
import uuid
from pathlib import Path

from safedpo_jax import checks, storage


def write(path: storage.AnyPath, content: bytes | str) -> None:
    """Replaces `path` by `content` in one step: a reader, or the next run after a crash, sees all of it or the file as it was.

    On a disk a temporary file takes the place of the old one. In a bucket the object is put whole, which replaces the old one at once.

    Raises:
      UserError: it cannot be written (full disk, no permission, no bucket); the old file is intact and no temporary file stays behind.
    """
    content = content.encode() if isinstance(content, str) else content
    try:
        if isinstance(path, Path):
            _replace(path, content)
        else:
            with storage.writing(path) as handle:
                handle.write(content)
    except OSError as error:
        advice = "Check the bucket and your access to it" if storage.in_bucket(path) else "Free disk space or check its permissions"
        raise checks.UserError(f"Cannot write {path}: {error.strerror or error}. {advice}.") from error


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with storage.writing(temporary) as handle:
            handle.write(content)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
