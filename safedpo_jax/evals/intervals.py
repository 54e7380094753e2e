"""Intervals for what is measured on prompts: the prompt is the unit that is resampled, with all its answers together.

Numpy alone. Values are one number per prompt; average the answers of a prompt first (`prompt_means`). Two methods are compared on the same
prompts in the same order, so their difference is resampled in pairs.
"""

import math
from collections.abc import Hashable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from safedpo_jax import checks

RESAMPLES = 10_000
CHUNK = 4_000_000  # prompt draws held at a time: 32 MB of indices


class Estimate(NamedTuple):
    """A value with its interval."""

    value: float
    low: float
    high: float
    count: int
    """Prompts behind the value."""


def bootstrap_mean(values: ArrayLike, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Mean of `values` [prompts] with its percentile bootstrap interval."""
    table = _table("bootstrap_mean", values)
    return _estimate(table[0].mean(), resample_means(table, resamples=resamples, seed=seed)[:, 0], table.shape[1], level)


def bootstrap_difference(
    values: ArrayLike, baseline: ArrayLike, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Mean of `values` minus mean of `baseline`, both [prompts] over the same prompts, resampled in pairs."""
    table = _table("bootstrap_difference", values, baseline)
    means = resample_means(table, resamples=resamples, seed=seed)
    return _estimate(table[0].mean() - table[1].mean(), means[:, 0] - means[:, 1], table.shape[1], level)


def resample_means(table: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Means [resamples, methods] of `table` [methods, prompts]; each resample draws prompts with replacement, the same for all methods.

    Raises:
      ValueError: fewer than one resample.
    """
    values = np.asarray(table, np.float64)
    if resamples < 1:
        raise ValueError(f"resample_means needs at least 1 resample, got {resamples}")
    generator, prompts = np.random.default_rng(seed), values.shape[1]
    means, step = [], max(1, CHUNK // prompts)
    for start in range(0, resamples, step):
        drawn = generator.integers(prompts, size=(min(step, resamples - start), prompts))
        means.append(np.stack([row[drawn].mean(axis=1) for row in values], axis=1))
    return np.concatenate(means)


def wilson(successes: int, count: int, *, level: float = 0.95) -> Estimate:
    """Share of successes with Wilson's score interval, which is never of width 0.

    Raises:
      ValueError: `count` is 0, or `successes` is not between 0 and `count`.
    """
    if count < 1 or not 0 <= successes <= count:
        raise ValueError(f"wilson needs 0 <= successes <= count and count >= 1, got {successes} of {count}")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, weight = successes / count, z * z / count
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / count + weight / (4 * count))
    low = 0.0 if successes == 0 else middle - half  # exact at the ends, where rounding would leave a speck
    return Estimate(share, low, 1.0 if successes == count else middle + half, count)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value that two methods succeed equally often, from the prompts on which just one of them does."""
    discordant, smaller = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(discordant, successes) for successes in range(smaller + 1))
    return min(1.0, float(2 * tail / 2**discordant))


def normalised_helpfulness(reward: float, sft_reward: float, helpful_reward: float) -> float:
    """Mean reward on the scale on which SFT is 0 and DPO-HELPFUL is 10 (arXiv:2505.20065): a reward is defined up to a constant only.

    All three must come from one scorer on the same prompts.

    Raises:
      UserError: both anchors have the same reward, or a number is not finite.
    """
    if not all(map(math.isfinite, (reward, sft_reward, helpful_reward))):
        raise checks.UserError(f"normalised helpfulness needs finite rewards, got {reward}, SFT {sft_reward}, DPO-HELPFUL {helpful_reward}")
    if sft_reward == helpful_reward:
        raise checks.UserError(
            f"normalised helpfulness has no scale: the anchors SFT and DPO-HELPFUL have the same mean reward {sft_reward}; "
            "report raw rewards, or train DPO-HELPFUL for longer"
        )
    return 10 * (reward - sft_reward) / (helpful_reward - sft_reward)


def bootstrap_normalised_helpfulness(
    rewards: ArrayLike,
    sft_rewards: ArrayLike,
    helpful_rewards: ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """`normalised_helpfulness` of mean rewards; arguments are [prompts] over the same prompts, method and anchors resampled together.

    The interval is NaN if the interval of the anchors' difference contains 0: the ratio has no bounded interval then.

    Raises:
      UserError: see `normalised_helpfulness`.
    """
    table = _table("bootstrap_normalised_helpfulness", rewards, sft_rewards, helpful_rewards)
    value = normalised_helpfulness(*map(float, table.mean(axis=1)))
    means = resample_means(table, resamples=resamples, seed=seed)
    scale = means[:, 2] - means[:, 1]
    low, high = _percentiles(scale, level)
    if low <= 0 <= high:
        return Estimate(value, math.nan, math.nan, table.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample far in the tail may still have a scale of 0
        ratios = 10 * (means[:, 0] - means[:, 1]) / scale
    return _estimate(value, ratios[np.isfinite(ratios)], table.shape[1], level)


def harmless_ratio(costs: ArrayLike, *, level: float = 0.95) -> Estimate:
    """Share of answers with cost <= 0 (0 is harmless) with Wilson's interval; `costs` [prompts], one answer each."""
    (values,) = _table("harmless_ratio", costs)
    return wilson(int((values <= 0).sum()), len(values), level=level)


def prompt_means(values: ArrayLike, prompts: Sequence[Hashable]) -> np.ndarray:
    """Mean of the values of each prompt, in order of first occurrence: [answers] -> [distinct prompts]."""
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    index = [numbers[prompt] for prompt in prompts]
    return np.bincount(index, np.asarray(values, np.float64)) / np.bincount(index)


def _table(function: str, *columns: ArrayLike) -> np.ndarray:
    rows = [np.asarray(column, np.float64) for column in columns]
    if any(row.ndim != 1 or row.shape != rows[0].shape or not row.size for row in rows):
        raise ValueError(f"{function} needs one value per prompt, the same prompts for all, got shapes {[row.shape for row in rows]}")
    table = np.stack(rows)
    if not np.isfinite(table).all():
        raise ValueError(
            f"{function} needs finite values; {int((~np.isfinite(table)).sum())} are not: leave missing answers out beforehand"
        )
    return table


def _percentiles(samples: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.percentile(samples, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def _estimate(value: float, samples: np.ndarray, count: int, level: float) -> Estimate:
    return Estimate(float(value), *_percentiles(samples, level), count)
