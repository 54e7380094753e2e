"""The loop alone, around stand-ins for everything that computes or keeps: what it does at which step, and in which order."""

import dataclasses
import types

import jax.numpy as jnp
import pytest

from safedpo_jax import config as configs
from safedpo_jax.losses import Total
from safedpo_jax.train import loop, meters, run_directory


class Batches:
    total_steps = 6

    def __iter__(self):
        return self

    def __next__(self):
        return "batch"

    def get_state(self):
        return {}

    def close(self):
        pass


class Runner:
    def __init__(self, order):
        self.order, self.state = order, types.SimpleNamespace(params={}, duals={}, skipped=jnp.zeros((), jnp.int32))

    def step(self, state, frozen, batch):
        self.order.append("step")
        return state, {"loss": Total(jnp.float32(1), jnp.float32(1))}

    def to_save(self, state):
        return state


class Saved:
    def __init__(self, order):
        self.order = order

    def steps(self):
        return []

    def restore_latest(self, abstract, expected):
        return None

    def save(self, step, state, **rest):
        self.order.append(f"save {step}")


@pytest.fixture
def standing_in(tmp_path, monkeypatch):
    """(order, train): what happens is noted in `order` when `train(config, stop)` runs the loop."""
    order = []
    monkeypatch.setattr(meters.Meter, "pause", lambda self: order.append("wait"))

    def train(config, stop=lambda: False):
        runner = Runner(order)
        run = types.SimpleNamespace(
            config=config,
            pipeline=Batches(),
            runner=runner,
            frozen=None,
            accounting=None,
            reference_id="",
            abstract_state=lambda: None,
            first_state=lambda: runner.state,
            evaluate=lambda params, duals: order.append("evaluate"),
        )
        directory = run_directory.RunDirectory(tmp_path, resumed=False)
        return loop._train(run, directory, Saved(order), stop)

    return order, train


CONFIG = configs.Config(
    log=configs.Log(every=4, tensorboard=False), eval=configs.Eval(every=5), checkpoint=configs.Checkpoint(every=100, keep_best=0)
)


def test_p78_only_steps_that_evaluate_or_save_wait_for_the_device(standing_in):
    """Of six steps the fourth is logged, the fifth evaluates, and the last does all."""
    order, train = standing_in
    assert train(CONFIG) is not None
    assert order == ["evaluate", *["step"] * 5, "wait", "evaluate", "step", "wait", "evaluate", "save 6"]


def test_checkpoints_with_a_best_one_are_evaluated_first(standing_in):
    order, train = standing_in
    train(dataclasses.replace(CONFIG, eval=configs.Eval(every=0), checkpoint=configs.Checkpoint(every=3, keep_best=1)))
    assert order == ["evaluate", *["step"] * 3, "wait", "evaluate", "save 3", *["step"] * 3, "wait", "evaluate", "save 6"]


def test_a_stop_saves_the_step_it_came_at(standing_in):
    order, train = standing_in
    assert train(CONFIG, stop=lambda: order.count("step") == 2) is None
    assert order == ["evaluate", "step", "step", "save 2"]
