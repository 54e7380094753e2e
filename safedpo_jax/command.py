"""How a command line ends: a user's mistake is one sentence on stderr and a status, never a traceback."""

import contextlib
import os
import sys
from collections.abc import Callable

from safedpo_jax import checks

USER_ERROR, USAGE_ERROR, INTERRUPTED = 1, 2, 130


def run(main: Callable[[], int | None]) -> int:
    """Runs `main` and returns the exit status, for `sys.exit(command.run(main))`.

    0 (or what `main` returns); 1 and the sentence on stderr for `checks.UserError`; 2 for `checks.UsageError`; 130 for control-C. A reader
    that closed the pipe (`| head`) ends the command quietly. Anything else is a bug and keeps its traceback.
    """
    try:
        status = main() or 0
        sys.stdout.flush()
        return status
    except checks.UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE_ERROR if isinstance(error, checks.UsageError) else USER_ERROR
    except BrokenPipeError:
        _silence_stdout()
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _silence_stdout() -> None:
    """Points stdout at nothing, or the interpreter's own flush at exit would fail again."""
    with contextlib.suppress(OSError, ValueError):  # stdout is no real file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
