"""Intervals against published values, exact enumeration and independent formulas."""

import itertools
import math

import numpy as np
import pytest

from safedpo_jax.checks import UserError
from safedpo_jax.evals import intervals

NORMAL = np.random.default_rng(3).normal(size=(2, 400))


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [(2895, 2989, 96.167, 97.423), (31, 250, 8.8748, 17.063), (200, 200, 98.115, 100), (249, 250, 97.769, 99.929)],
)
def test_wilson_interval_of_published_rates(successes, count, low, high):
    found = intervals.wilson(successes, count)
    np.testing.assert_allclose([100 * found.value, 100 * found.low, 100 * found.high], [100 * successes / count, low, high], rtol=3e-5)
    assert found.count == count


def test_wilson_is_symmetric_and_never_of_width_zero():
    none, every = intervals.wilson(0, 30), intervals.wilson(30, 30)
    assert (none.low, every.high) == (0.0, 1.0)
    np.testing.assert_allclose(none.high, 1 - every.low)
    assert none.high > 0.05
    assert intervals.wilson(10, 30, level=0.99).low < intervals.wilson(10, 30).low


def test_wilson_solves_its_defining_equation():
    """At each end p of the interval the observed share is z standard errors (under p) away."""
    found = intervals.wilson(7, 40)
    for end in (found.low, found.high):
        np.testing.assert_allclose(abs(7 / 40 - end) / math.sqrt(end * (1 - end) / 40), 1.959963985, rtol=1e-8)


@pytest.mark.parametrize(("successes", "count"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(successes, count):
    with pytest.raises(ValueError, match=f"got {successes} of {count}"):
        intervals.wilson(successes, count)


def test_bootstrap_agrees_with_complete_enumeration():
    """Three prompts have 27 resamples; the percentiles of 10,000 draws are those of the complete list."""
    values = np.array([0.0, 1.0, 5.0])
    means = [np.mean(draw) for draw in itertools.product(values, repeat=3)]
    found = intervals.bootstrap_mean(values)
    assert found.value == 2.0
    np.testing.assert_allclose([found.low, found.high], np.percentile(means, [2.5, 97.5], method="inverted_cdf"), atol=0.34)
    assert {round(mean, 9) for mean in intervals.resample_means([values])[:, 0]} == {round(float(mean), 9) for mean in means}


def test_bootstrap_of_many_values_is_near_the_normal_interval():
    found = intervals.bootstrap_mean(NORMAL[0])
    half = 1.96 * NORMAL[0].std() / np.sqrt(400)
    np.testing.assert_allclose([found.low, found.high], NORMAL[0].mean() + np.array([-half, half]), atol=0.1 * half)


def test_bootstrap_has_a_fixed_key_and_does_not_touch_the_global_generator():
    before = np.random.get_state()[1].tolist()  # noqa: NPY002 - the legacy state is what must stay
    assert intervals.bootstrap_mean(NORMAL[0]) == intervals.bootstrap_mean(NORMAL[0]) != intervals.bootstrap_mean(NORMAL[0], seed=1)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


def test_chunks_do_not_change_the_number_of_resamples(monkeypatch):
    monkeypatch.setattr(intervals, "CHUNK", 1000)
    assert intervals.resample_means(NORMAL, resamples=7).shape == (7, 2)
    assert intervals.RESAMPLES >= 10_000
    assert intervals.resample_means(NORMAL[:, :5]).shape == (10_000, 2)


def test_differences_are_paired():
    """A constant advantage on every prompt has no uncertainty, however much prompts differ; unpaired intervals would overlap."""
    better = NORMAL[0] + 0.01
    found = intervals.bootstrap_difference(better, NORMAL[0])
    np.testing.assert_allclose([found.value, found.low, found.high], 0.01, rtol=1e-9)
    unrelated = intervals.bootstrap_difference(NORMAL[0], NORMAL[1])
    assert unrelated.low < 0 < unrelated.high


@pytest.mark.parametrize("values", [[], [[1.0]], [1.0, math.nan], [math.inf]])
def test_values_that_cannot_be_averaged_are_refused(values):
    with pytest.raises(ValueError, match="needs"):
        intervals.bootstrap_mean(values)


def test_methods_on_different_prompts_are_not_compared():
    with pytest.raises(ValueError, match=r"\(2,\), \(3,\)"):
        intervals.bootstrap_difference([1.0, 2.0], [1.0, 2.0, 3.0])


def test_p64_normalised_helpfulness():
    assert intervals.normalised_helpfulness(1.9, -0.5, 4.3) == pytest.approx(5.0)
    assert intervals.normalised_helpfulness(-0.5, -0.5, 4.3) == 0.0
    assert intervals.normalised_helpfulness(4.3, -0.5, 4.3) == 10.0
    shifted = intervals.normalised_helpfulness(1.9 + 7, -0.5 + 7, 4.3 + 7)
    assert shifted == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("rewards", "sentence"), [((1.0, 2.0, 2.0), "same mean reward 2.0"), ((math.nan, 0.0, 1.0), "needs finite rewards")]
)
def test_p64_normalised_helpfulness_refuses_a_scale_of_zero(rewards, sentence):
    with pytest.raises(UserError, match=sentence):
        intervals.normalised_helpfulness(*rewards)


def test_p64_anchors_are_resampled_with_the_method():
    """The anchors themselves have no uncertainty on their own scale, and a fixed mixture of them has none either."""
    sft, helpful = NORMAL[0], NORMAL[1] + 3
    for share, value in ((0.0, 0.0), (1.0, 10.0), (0.3, 3.0)):
        found = intervals.bootstrap_normalised_helpfulness((1 - share) * sft + share * helpful, sft, helpful)
        np.testing.assert_allclose([found.value, found.low, found.high], value, atol=1e-9)


def test_p64_no_interval_where_the_anchors_may_coincide():
    found = intervals.bootstrap_normalised_helpfulness(NORMAL[0] + 1, NORMAL[0], NORMAL[1])
    assert math.isfinite(found.value)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_p65_a_cost_of_zero_is_harmless():
    assert intervals.harmless_ratio([-1.0, 0.0, 1e-9, 3.0]) == intervals.wilson(2, 4)


@pytest.mark.parametrize(("first", "second", "p"), [(0, 0, 1.0), (5, 5, 1.0), (0, 6, 2 / 64), (1, 7, 2 * 9 / 256), (7, 1, 2 * 9 / 256)])
def test_mcnemar(first, second, p):
    assert intervals.mcnemar(first, second) == pytest.approx(p)
    assert intervals.mcnemar(3000, 1000) == 0.0 or intervals.mcnemar(3000, 1000) < 1e-100


def test_answers_of_one_prompt_are_averaged_first():
    np.testing.assert_array_equal(intervals.prompt_means([1, 2, 3, 6], ["b", "a", "b", "c"]), [2, 2, 6])
