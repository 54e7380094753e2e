"""What a run's checkpoints hold, what a full disk does to a run, and the same run on one device."""

import json
import os
import resource
import shutil
import subprocess
import sys

import jax
import numpy as np

from safedpo_jax import models

from . import world


def test_p76_a_checkpoint_names_its_config_reference_data_position_and_counters(base_run):
    folder = base_run / "checkpoints" / "6"
    held = json.loads((folder / "run" / "metadata").read_text())["metadata"]
    assert held["config"] == json.loads((base_run / "config.json").read_text())
    assert len(held["reference"]) == 16
    last = [line for line in world.log(base_run) if "tokens" in line][-1]
    assert (held["counters"]["tokens"], held["counters"]["examples"]) == (last["tokens"], last["examples"])
    assert json.loads((folder / "data" / "metadata").read_text())
    assert (folder / "state").is_dir()


def test_a_full_disk_during_a_save_is_a_sentence_and_the_run_goes_on_when_there_is_room(project, tmp_path, base_run, capsys):
    """A limit on the size of files stands in for a disk that is full: writing fails in the middle of a file."""
    run = shutil.copytree(base_run, tmp_path / "run")
    for part in ("export", "checkpoints/6"):
        shutil.rmtree(run / part)
    (run / "report.md").unlink()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16384, before[1]))
    try:
        status = world.train(project, run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 1
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "Saving the checkpoint of step 6" in error
    assert "Earlier checkpoints are intact" in error
    assert not (run / "export").exists()
    assert not (run / "report.md").exists()
    assert world.train(project, run) == 0
    assert "continuing from step 4" in capsys.readouterr().out
    assert world.log(run) == world.log(base_run)


def test_p69_one_device_gives_the_numbers_of_eight(project, tmp_path, base_run):
    command = [sys.executable, "-m", "safedpo_jax.main", *world.arguments(project, tmp_path / "run")]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "XLA_FLAGS": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    np.testing.assert_allclose(world.losses(tmp_path / "run"), world.losses(base_run), rtol=1e-5)
    ours, theirs = (models.load_pretrained(folder / "export").params for folder in (tmp_path / "run", base_run))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5), ours, theirs)
