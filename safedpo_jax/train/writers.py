"""Where metrics go: a JSONL file that survives crashes and resumes, TensorBoard without TensorFlow, Weights & Biases if wanted."""

import json
import math
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from safedpo_jax import checks
from safedpo_jax.train import atomic

Metrics = Mapping[str, Any]
"""Names to scalars: Python or numpy numbers, zero-dimensional arrays, booleans, strings or None."""


@runtime_checkable
class MetricWriter(Protocol):
    """What the loop needs of a writer."""

    def write(self, step: int, metrics: Metrics) -> None: ...
    def close(self) -> None: ...


class JsonlWriter:
    """One JSON object per line: `step`, then the metrics. Each line is on disk when `write` returns.

    On opening, lines later than `last_step` and a line cut off by a crash are removed: a resumed run's log has every step once (P-39).

    Args:
      path: the file; created if absent.
      last_step: the step training continues from; -1 starts the log anew.
    """

    def __init__(self, path: str | Path, last_step: int = -1):
        self.path = Path(path)
        try:
            self._truncate(last_step)
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise checks.UserError(f"Cannot open the metrics log {self.path}: {error.strerror}.") from error

    def write(self, step: int, metrics: Metrics) -> None:
        """Appends a line. NaN and infinities, which JSON lacks, become null."""
        line = json.dumps({"step": int(step), **{name: plain(value) for name, value in metrics.items()}}, allow_nan=False)
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except OSError as error:
            raise checks.UserError(f"Cannot write the metrics log {self.path}: {error.strerror}. Free disk space, then resume.") from error

    def close(self) -> None:
        self._file.close()

    def _truncate(self, last_step: int) -> None:
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        kept = b"".join(line for line in content.splitlines(keepends=True) if line.endswith(b"\n") and _step(line) <= last_step)
        if kept != content:
            atomic.write(self.path, kept)


class TensorBoardWriter:
    """Scalars as TensorBoard event files. On a resume, TensorBoard is told to forget what came after `last_step`."""

    def __init__(self, directory: str | Path, last_step: int = -1):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(
            str(directory),
            purge_step=last_step + 1 if last_step >= 0 else None,
            flush_secs=30,
            filename_suffix=f".{uuid.uuid4().hex[:8]}",  # names have whole seconds: a quick restart would overwrite the file
        )

    def write(self, step: int, metrics: Metrics) -> None:
        for name, value in metrics.items():
            number = plain(value)
            if isinstance(number, (int, float)):
                self._writer.add_scalar(name, number, int(step))

    def close(self) -> None:
        self._writer.close()


class WandbWriter:
    """Metrics to Weights & Biases, one run per run directory: its id is kept there, so a resumed run continues its curves.

    Raises:
      UserError: wandb is not installed.
    """

    def __init__(self, project: str, directory: str | Path, config: dict[str, Any] | None = None):
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise checks.UserError(
                "log.wandb_project is set, but wandb is not installed: pip install 'safedpo_jax[wandb]', or leave log.wandb_project empty."
            ) from error
        marker = Path(directory) / "wandb_id"
        if not marker.exists():
            atomic.write(marker, wandb.util.generate_id())
        identity = marker.read_text().strip()
        self._run = wandb.init(project=project, dir=str(directory), id=identity, resume="allow", config=config or {})

    def write(self, step: int, metrics: Metrics) -> None:
        self._run.log({name: plain(value) for name, value in metrics.items()}, step=int(step))

    def close(self) -> None:
        self._run.finish()


class MultiWriter:
    """Several writers as one; none on processes other than the first."""

    def __init__(self, writers: Sequence[MetricWriter]):
        self._writers = tuple(writers)

    def write(self, step: int, metrics: Metrics) -> None:
        for writer in self._writers:
            writer.write(step, metrics)

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


def plain(value: Any) -> float | int | bool | str | None:
    """A scalar as JSON has it; NaN and infinities become None.

    Raises:
      TypeError: not a scalar.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    array = np.asarray(value)
    if array.ndim or array.dtype.kind not in "biufV":  # V: bfloat16 and its like
        raise TypeError(f"a metric must be a scalar, got {type(value).__name__} of shape {array.shape} and dtype {array.dtype}")
    if array.dtype.kind in "biu":
        return array.item()
    number = float(array)
    return number if math.isfinite(number) else None


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """All complete lines of a metrics log."""
    lines = Path(path).read_bytes().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith(b"\n") and _step(line) != math.inf]


def _step(line: bytes) -> int | float:
    """The step of a line; infinity if it is no complete record."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
