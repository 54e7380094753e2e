"""Errors around checkpoints: which ones are the storage's, one sentence for them, and agreement between processes."""

from typing import Any

import jax
import numpy as np

DISK_FULL = ("no space left", "enospc", "file too large", "disk quota", "resource_exhausted")
STORAGE = (*DISK_FULL, "permission_denied", "permission denied", "read-only file", "data_loss", "unavailable", "input/output error")


def is_storage(error: Exception) -> bool:
    """Whether it is an error of the file system or object store; TensorStore raises these as ValueError."""
    return isinstance(error, OSError) or any(word in str(error).lower() for word in STORAGE)


def sentence(doing: str, directory: Any, error: Exception, kept: str) -> str:
    """What failed where, what is intact, and what to do.

    Args:
      doing: such as "Saving the checkpoint of step 3".
      directory: the checkpoint directory.
      error: the storage's error.
      kept: which checkpoints are there.
    """
    full = any(word in str(error).lower() for word in DISK_FULL)
    advice = "free disk space (or lower checkpoint.keep_last)" if full else "check the directory and its permissions"
    return (
        f"{doing} in {directory} failed: {'the disk is full' if full else 'the storage refused'} ({brief(error)}). "
        f"Earlier checkpoints are intact ({kept}); {advice}, then run the same command again to continue."
    )


def brief(error: Exception) -> str:
    """The message of an error on one line, without TensorStore's dump of its configuration."""
    return " ".join(str(error).split("[tensorstore_spec")[0].split("[source locations")[0].split())[:240]


def agree(failure: str) -> str:
    """The failure of the first process that has one; an empty string if none has. Every process must call it."""
    if jax.process_count() == 1:
        return failure
    from jax.experimental import multihost_utils

    mine = np.frombuffer(failure.encode()[:300].ljust(300, b"\0"), np.uint8)
    everyone = np.asarray(multihost_utils.process_allgather(mine))
    return next((text for text in (bytes(row).rstrip(b"\0").decode(errors="replace") for row in everyone) if text), "")
