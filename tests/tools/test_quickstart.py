"""The quickstart on a pocket-sized world: every stage, its table and picture, and going on after an interruption."""

import json

import pytest

from safedpo_jax import command
from safedpo_jax.config import command_line
from safedpo_jax.tools import quickstart

SMALL = ["--train_pairs=60", "--test_prompts=20"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two steps a stage on the real stages; the configs are the published ones, shortened."""
    root = tmp_path_factory.mktemp("quickstart") / "run"
    with pytest.MonkeyPatch.context() as patch:
        parse = command_line.parse
        short = [
            "--config.steps=2",
            "--config.batch.pairs=8",
            "--config.batch.rows=8",
            "--config.eval.every=0",
            "--config.log.tensorboard=False",
        ]
        patch.setattr(command_line, "parse", lambda arguments: parse([*arguments, *short]))
        assert command.run(lambda: quickstart.run([f"--workdir={root}", *SMALL])) == 0
    return root


def test_it_leaves_a_table_a_picture_samples_and_a_model(finished):
    text = (finished / "quickstart.md").read_text()
    assert "harmless ratio, harmful prompts" in text
    assert "SafeDPO" in text
    assert (finished / "helpfulness_harmlessness.png").stat().st_size > 5000
    assert (finished / "safedpo" / "export" / "model.safetensors").exists()
    assert (finished / "safedpo" / "export" / "tokenizer.json").exists()


def test_every_held_out_prompt_is_answered_once_by_both(finished):
    prompts = [json.loads(line)["prompt"] for line in (finished / "world" / "test_prompts.jsonl").read_text().splitlines()]
    for name in ("SFT", "SafeDPO"):
        answered = [json.loads(line) for line in (finished / f"answers_{name}.jsonl").read_text().splitlines()]
        assert [row["prompt"] for row in answered] == prompts


def test_a_finished_run_only_reports_again(finished, capsys):
    before = (finished / "answers_SafeDPO.jsonl").stat().st_mtime_ns
    assert command.run(lambda: quickstart.run([f"--workdir={finished}", *SMALL])) == 0
    assert (finished / "answers_SafeDPO.jsonl").stat().st_mtime_ns == before
    assert "held-out prompts" in capsys.readouterr().out


def test_help_and_usage(capsys):
    with pytest.raises(SystemExit) as stopped:
        quickstart.parse_arguments(["--workdirr=x"])
    assert stopped.value.code == 2
