"""Preference losses as pure functions of arrays: jax and jaxtyping only.

Losses take log-probs summed over response tokens, policy before reference and chosen before rejected, and return unreduced values;
`weighted_sum`, `merge` and `mean` reduce them. `token_logps` and `pair_sums` make log-probs from hidden states. `OBJECTIVES` is the table
that training reads. `unsafe` is True for unsafe everywhere.
"""

from safedpo_jax.losses.dpo import dpo as dpo
from safedpo_jax.losses.inputs import Scalar as Scalar
from safedpo_jax.losses.objectives import OBJECTIVES as OBJECTIVES
from safedpo_jax.losses.objectives import Objective as Objective
from safedpo_jax.losses.objectives import check_hyperparameters as check_hyperparameters
from safedpo_jax.losses.objectives import find_objective as find_objective
from safedpo_jax.losses.objectives import pair_loss as pair_loss
from safedpo_jax.losses.objectives import pair_weights as pair_weights
from safedpo_jax.losses.reduction import Total as Total
from safedpo_jax.losses.reduction import mean as mean
from safedpo_jax.losses.reduction import merge as merge
from safedpo_jax.losses.reduction import weighted_sum as weighted_sum
from safedpo_jax.losses.safedpo import safedpo as safedpo
from safedpo_jax.losses.safety import safety_order as safety_order
from safedpo_jax.losses.segments import pair_counts as pair_counts
from safedpo_jax.losses.segments import pair_sums as pair_sums
from safedpo_jax.losses.segments import segment_sums as segment_sums
from safedpo_jax.losses.sft import sft as sft
from safedpo_jax.losses.token_logps import token_logps as token_logps

__all__ = [
    "OBJECTIVES",
    "Objective",
    "Scalar",
    "Total",
    "check_hyperparameters",
    "dpo",
    "find_objective",
    "mean",
    "merge",
    "pair_counts",
    "pair_loss",
    "pair_sums",
    "pair_weights",
    "safedpo",
    "safety_order",
    "segment_sums",
    "sft",
    "token_logps",
    "weighted_sum",
]
