"""Files that are either the old one or the new one, never half of it."""

import contextlib
import os
import uuid
from pathlib import Path

from safedpo_jax import checks


def write(path: Path, content: bytes | str) -> None:
    """Replaces `path` by `content` in one step: a reader, or the next run after a crash, sees all of it or the file as it was.

    Raises:
      UserError: it cannot be written (full disk, no permission); the old file is intact and no temporary file stays behind.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("wb") as handle:
            handle.write(content.encode() if isinstance(content, str) else content)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise checks.UserError(f"Cannot write {path}: {error.strerror or error}. Free disk space or check its permissions.") from error
