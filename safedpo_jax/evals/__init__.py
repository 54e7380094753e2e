"""Evaluation: what a trained policy does, as (total, weight) sums that are added over batches, devices and hosts and divided once."""

from safedpo_jax.evals.preference import batch_metrics as batch_metrics
from safedpo_jax.evals.preference import preference_metrics as preference_metrics
from safedpo_jax.evals.preference import token_nll as token_nll

__all__ = ["batch_metrics", "preference_metrics", "token_nll"]
