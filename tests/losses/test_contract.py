"""What every row of OBJECTIVES must do. A new row joins by itself; a new kind of array or hyper-parameter needs one line below."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safedpo_jax.losses import OBJECTIVES

ROWS = 16
HYPERPARAMETERS = {"beta": 0.3, "delta": 1.5, "label_smoothing": 0.1}
DETACHED: frozenset[str] = frozenset()
"""Objectives with a stop-gradient inside, by design: their own tests compare with a closed form instead of finite differences."""

every_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
every_pairwise_objective = pytest.mark.parametrize(
    "objective", [row for row in OBJECTIVES.values() if row.scope == "pair"], ids=lambda row: row.name
)


def example(name, rows=ROWS):
    """A plausible array for an input of that name (float64, bool or int32), different for every name."""
    draw = np.random.default_rng(sum(map(ord, name)))
    if name.endswith("_logps"):
        return draw.normal(-20, 4, rows)
    if name.endswith("_unsafe"):
        return np.resize([False, False, True, True] if name.startswith("chosen") else [False, True, False, True], rows)
    if name.endswith("_tokens"):
        return draw.integers(3, 20, rows).astype(np.int32)
    if name.endswith(("_reward", "_cost", "_offset")):
        return draw.normal(0, 2, rows)
    if name.endswith("_weight"):
        return draw.uniform(0.2, 2, rows)
    raise KeyError(f"say here what an example of the array {name!r} looks like")


def examples(objective, dtype, rows=ROWS):
    arrays = [example(name, rows) for name in objective.inputs]
    return [jnp.asarray(array, dtype) if array.dtype == np.float64 else jnp.asarray(array) for array in arrays]


def bind(objective):
    missing = set(objective.hyperparameters) - set(HYPERPARAMETERS)
    assert not missing, f"add an example value of {missing} to HYPERPARAMETERS"
    return functools.partial(objective.function, **{name: HYPERPARAMETERS[name] for name in objective.hyperparameters})


def floats(objective, prefix=""):
    return [index for index, name in enumerate(objective.inputs) if name.startswith(prefix) and example(name).dtype == np.float64]


@pytest.mark.usefixtures("x64")
@every_objective
def test_p79_gradient_equals_central_differences(objective):
    if objective.name in DETACHED:
        pytest.skip("detached parts: the objective's own test compares with a closed form")
    function, arrays = bind(objective), examples(objective, jnp.float64)
    step = 1e-5
    for index in floats(objective, "policy_"):
        slope = jax.grad(lambda moved, at=index: jnp.sum(function(*arrays[:at], moved, *arrays[at + 1 :])))(arrays[index])
        for row in range(ROWS):
            bump = step * jnp.asarray(np.eye(ROWS)[row])
            high, low = (jnp.sum(function(*arrays[:index], arrays[index] + sign * bump, *arrays[index + 1 :])) for sign in (1, -1))
            np.testing.assert_allclose(slope[row], (high - low) / (2 * step), rtol=1e-6, atol=1e-9, err_msg=objective.inputs[index])


@every_objective
def test_p22_p61_only_the_policy_receives_a_gradient(objective):
    function, arrays = bind(objective), examples(objective, jnp.float32)
    slopes = jax.grad(lambda *arrays: jnp.sum(function(*arrays)), argnums=tuple(range(len(arrays))), allow_int=True)(*arrays)
    for index in floats(objective):
        if objective.inputs[index].startswith("policy_"):
            assert np.any(slopes[index]), objective.inputs[index]
        else:
            np.testing.assert_array_equal(slopes[index], 0.0, err_msg=objective.inputs[index])


@every_objective
@pytest.mark.parametrize("gap", [-2000.0, -100.0, 0.0, 100.0, 2000.0])
def test_p30_value_and_gradient_are_finite_at_absurd_gaps(objective, gap):
    function, arrays = bind(objective), examples(objective, jnp.float32)
    for name, far in (("policy_chosen_logps", min(gap, 0.0)), ("policy_rejected_logps", min(-gap, 0.0))):
        if name in objective.inputs:
            arrays[objective.inputs.index(name)] += far
    where = tuple(floats(objective, "policy_"))
    value, slopes = jax.value_and_grad(lambda *arrays: jnp.sum(function(*arrays)), argnums=where)(*arrays)
    assert np.isfinite(value)
    for slope in slopes:
        assert np.isfinite(slope).all()


@every_objective
def test_p13_empty_slots_are_finite_in_value_and_gradient(objective):
    """All zeros and False is what `pair_loss` puts in an unused slot."""
    function = bind(objective)
    arrays = [jnp.zeros_like(array) for array in examples(objective, jnp.float32)]
    value, slopes = jax.value_and_grad(lambda *arrays: jnp.sum(function(*arrays)), argnums=tuple(floats(objective, "policy_")))(*arrays)
    assert np.isfinite(value)
    for slope in slopes:
        assert np.isfinite(slope).all()


@every_objective
def test_p73_jit_changes_nothing_and_numpy_arrays_are_welcome(objective):
    function, arrays = bind(objective), examples(objective, jnp.float32)
    eager = function(*arrays)
    np.testing.assert_allclose(jax.jit(function)(*arrays), eager, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(function(*map(np.asarray, arrays)), eager)


@every_pairwise_objective
def test_p18_vmap_equals_the_batch(objective):
    function, arrays = bind(objective), examples(objective, jnp.float32)
    np.testing.assert_allclose(jax.vmap(function)(*arrays), function(*arrays), rtol=1e-6, atol=1e-7)


@every_objective
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64])
def test_unreduced_in_the_dtype_of_the_inputs(objective, dtype):
    with jax.enable_x64(dtype == jnp.float64):
        losses = bind(objective)(*examples(objective, dtype))
        assert losses.dtype == dtype
        assert losses.shape == (ROWS,)


@every_objective
def test_hyperparameters_are_keyword_only_and_arrays_have_their_public_names(objective):
    public = {"policy_chosen_logps", "policy_rejected_logps", "reference_chosen_logps", "reference_rejected_logps"}
    public |= {f"{side}_{kind}" for side in ("chosen", "rejected") for kind in ("unsafe", "tokens", "reward", "cost")}
    public |= {"pair_weight", "pair_offset"}
    assert set(objective.inputs) <= public
    order = ["policy_chosen_logps", "policy_rejected_logps", "reference_chosen_logps", "reference_rejected_logps"]
    assert [name for name in objective.inputs if name in order] == [name for name in order if name in objective.inputs]
    with pytest.raises(TypeError):
        objective.function(*examples(objective, jnp.float32), 0.1)
