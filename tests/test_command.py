"""How commands end."""

import subprocess
import sys

import pytest

from safedpo_jax import checks, command


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("main", "status", "words"),
    [
        (lambda: None, 0, ""),
        (lambda: 3, 3, ""),
        (raising(checks.UserError("The file is empty.")), 1, "error: The file is empty.\n"),
        (raising(checks.UsageError("No such key.")), 2, "error: No such key.\n"),
        (raising(KeyboardInterrupt()), 130, "interrupted\n"),
    ],
)
def test_status_and_sentence(main, status, words, capsys):
    assert command.run(main) == status
    assert capsys.readouterr() == ("", words)


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        command.run(lambda: 1 // 0)


def test_a_reader_that_leaves_ends_the_command_quietly():
    code = "import sys; from safedpo_jax import command; sys.exit(command.run(lambda: print('line\\n' * 100_000)))"
    done = subprocess.run(f'{sys.executable} -c "{code}" | head -1', shell=True, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("line\n", "")
