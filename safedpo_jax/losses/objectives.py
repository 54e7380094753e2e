"""The table of objectives, and the one call that trains on any of them.

A new objective is a function and a row of `OBJECTIVES`. What the function reads is written once, in its signature: hyper-parameters are its
keyword-only arguments, and its positional arguments are log-probs (`policy_...`, `reference_...`) and extra arrays by their public names.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from safedpo_jax import checks
from safedpo_jax.losses.dpo import dpo
from safedpo_jax.losses.inputs import Array
from safedpo_jax.losses.safedpo import safedpo
from safedpo_jax.losses.safety import safety_order
from safedpo_jax.losses.segments import pair_counts
from safedpo_jax.losses.sft import sft
from safedpo_jax.structs import PairBatch

Logps = tuple[Array, Array]
"""(chosen, rejected) summed log-probs in nats, with the shape of `batch.weight`."""

LOGPS = ("policy_chosen_logps", "policy_rejected_logps", "reference_chosen_logps", "reference_rejected_logps")
COUNTS = ("chosen_tokens", "rejected_tokens")


@dataclasses.dataclass(frozen=True)
class Objective:
    """A loss with what a training loop must know about it."""

    name: str
    function: Callable[..., Any]
    """Unreduced loss of arrays of one shape."""
    citation: str
    formula: str
    """One line; h is the policy's log-ratio of chosen to rejected minus the reference's."""
    ordering: Literal["helpful", "safety"] = "helpful"
    """Order in which the data gives pairs unless told otherwise: the annotator's helpfulness label, or the safety order T(D)."""
    reorders: bool = False
    """True: the function applies the safety order itself, and both-unsafe pairs have weight 0."""
    scope: Literal["pair", "batch"] = "pair"
    """'batch': the loss of a pair depends on the other pairs, so it is not invariant to accumulation."""

    @functools.cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of the arrays the function takes, in order."""
        return tuple(name for name, parameter in self._parameters if parameter.kind is not parameter.KEYWORD_ONLY)

    @functools.cached_property
    def hyperparameters(self) -> tuple[str, ...]:
        """Names of all hyper-parameters."""
        return tuple(name for name, parameter in self._parameters if parameter.kind is parameter.KEYWORD_ONLY)

    @functools.cached_property
    def required(self) -> tuple[str, ...]:
        """Names of the hyper-parameters without a default."""
        return tuple(name for name, parameter in self._parameters if name in self.hyperparameters and parameter.default is parameter.empty)

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of the arrays beyond log-probs (labels, token counts, scores)."""
        return tuple(name for name in self.inputs if name not in LOGPS)

    @property
    def reference(self) -> bool:
        """True if reference log-probs are read."""
        return any(name.startswith("reference_") for name in self.inputs)

    @property
    def pairs(self) -> bool:
        """True if the rejected response is read; False for losses of single responses, such as SFT."""
        return "policy_rejected_logps" in self.inputs

    @property
    def _parameters(self) -> list[tuple[str, inspect.Parameter]]:
        return list(inspect.signature(self.function).parameters.items())


OBJECTIVES: dict[str, Objective] = {
    row.name: row
    for row in (
        Objective("sft", sft, citation="maximum likelihood", formula="-log pi(chosen) / tokens, averaged over tokens"),
        Objective("dpo", dpo, citation="arXiv:2305.18290 Eq. (7)", formula="-log sigmoid(beta h)"),
        Objective(
            "safedpo",
            safedpo,
            citation="arXiv:2505.20065 Eq. (12)",
            formula="-log sigmoid(beta h - delta [exactly one is unsafe]) on T(D)",
            ordering="safety",
            reorders=True,
        ),
    )
}


def find_objective(name: str) -> Objective:
    """The row of that name.

    Raises:
      UsageError: there is none; the sentence names all and the nearest.
    """
    checks.one_of("the objective", name, OBJECTIVES)
    return OBJECTIVES[name]


def check_hyperparameters(objective: Objective, given: Iterable[str]) -> None:
    """Refuses hyper-parameters the objective would ignore, and their absence where it has no default.

    Raises:
      UsageError: names what is unknown (with the nearest known name) or missing.
    """
    given, known = list(given), objective.hyperparameters
    reads = f"it reads {', '.join(known)}" if known else "it has no hyper-parameters"
    for name in given:
        if name not in known:
            raise checks.UsageError(f"Objective '{objective.name}' does not read {name} ({reads}){checks.nearest(name, known)}. Remove it.")
    missing = [name for name in objective.required if name not in given]
    if missing:
        raise checks.UsageError(f"Objective '{objective.name}' needs a value for {', '.join(missing)} ({reads}).")


def pair_weights(objective: Objective, batch: PairBatch) -> jax.Array:
    """Weight of each slot in the objective's mean, float32 with the shape of `batch.weight`.

    `batch.weight`, times 0 for pairs that the safety order drops, times the number of tokens for losses of single responses.
    """
    weights = jnp.asarray(batch.weight)
    if objective.reorders:
        keep = safety_order(batch.chosen_unsafe, batch.rejected_unsafe)[2]
        weights = jnp.where(keep, weights, 0)
    if not objective.pairs:
        weights = weights * pair_counts(batch)[0].astype(weights.dtype)
    return weights


def pair_loss(
    objective: Objective, policy_logps: Logps, reference_logps: Logps | None, batch: PairBatch, **hyper: Any
) -> tuple[jax.Array, jax.Array]:
    """The objective on a packed batch: unreduced losses and the weights of their mean (`reduction.weighted_sum` takes both).

    Slots of weight 0 are computed on zeros instead of their own log-probs, so that NaN there reaches neither value nor gradient.

    Args:
      objective: row of `OBJECTIVES`.
      policy_logps: (chosen, rejected) sums in nats, see `segments.pair_sums`.
      reference_logps: the same under the frozen reference, from wherever they come; None only if the objective reads none.
      batch: labels and weights; also any extra array the objective reads, under its public name.
      **hyper: the objective's hyper-parameters.

    Returns:
      losses, weights: both with the shape of `batch.weight`.

    Raises:
      UsageError: a hyper-parameter is missing or would be ignored.
      UserError: the batch lacks an array that the objective reads.
    """
    check_hyperparameters(objective, hyper)
    weights = pair_weights(objective, batch)
    arrays = _arrays(objective, policy_logps, reference_logps, batch)
    used = weights != 0
    safe = [jnp.where(used, array, jnp.zeros((), array.dtype)) for array in arrays]
    return objective.function(*safe, **hyper), weights


def _arrays(objective: Objective, policy_logps: Logps, reference_logps: Logps | None, batch: PairBatch) -> list[jax.Array]:
    """The objective's arrays in the order of its signature, each with the shape of `batch.weight`."""
    known: dict[str, Any] = dict(zip(LOGPS, (*policy_logps, *(reference_logps or (None, None))), strict=True))
    if any(name in COUNTS for name in objective.inputs):
        known |= dict(zip(COUNTS, pair_counts(batch), strict=True))
    arrays = []
    for name in objective.inputs:
        array = known[name] if name in known else getattr(batch, name, None)
        if array is None:
            raise checks.UserError(f"Objective '{objective.name}' needs {name}, which {_source(name)}.")
        arrays.append(jnp.asarray(array))
    checks.same_shape(
        f"pair_loss with objective '{objective.name}'", weight=batch.weight, **dict(zip(objective.inputs, arrays, strict=True))
    )
    return arrays


def _source(name: str) -> str:
    if name.startswith("reference_"):
        return "was not given: run the reference model, or use data with cached reference log-probs"
    return "this batch does not carry: use data that has it, or another objective"
