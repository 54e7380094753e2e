"""Signals become a flag; a second one ends the process; the old handlers come back. Real signals, real processes."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from safedpo_jax.train.preemption import StopRequest


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_first_signal_is_a_request_and_handlers_are_restored(number, status, capfd):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.requested
        assert stop.exit_status == 0
        os.kill(os.getpid(), number)
        assert stop.requested
        assert stop.signal == number
        assert stop.exit_status == status
    assert signal.getsignal(number) is before
    assert "a second signal leaves at once" in capfd.readouterr().err


def test_handlers_are_restored_after_an_error():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyError), StopRequest():
        raise KeyError
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_request_can_come_from_elsewhere():
    with StopRequest() as stop:
        stop.request()
        assert stop.requested
        assert stop.exit_status == 143


def test_outside_the_main_thread_nothing_is_installed():
    seen = []

    def work():
        with StopRequest() as stop:
            seen.append((stop.requested, signal.getsignal(signal.SIGTERM)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


def test_a_second_signal_leaves_at_once():
    script = """
        import os, signal, sys
        from safedpo_jax.train.preemption import StopRequest
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            print("asked", stop.requested, flush=True)
            os.kill(os.getpid(), signal.SIGTERM)
            print("still here", flush=True)
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 143
    assert result.stdout == "asked True\n"
    assert "leaving without saving" in result.stderr
