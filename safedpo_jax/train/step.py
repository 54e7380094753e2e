"""The pure training step: microbatches in, one update out.

A step's batch has a leading microbatch axis. Gradients of the *sum* of pair losses are added over the microbatches that hold pairs and divided
once by the summed weight, so accumulation, padding and the spread of pairs over rows and devices change nothing but rounding.
The loop's trip count is read from the batch on the device: one compilation serves every batch, and empty microbatches cost nothing.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from safedpo_jax import losses
from safedpo_jax.evals import preference
from safedpo_jax.losses import Objective, Total
from safedpo_jax.losses.reduction import accumulation_dtype
from safedpo_jax.structs import PADDING, PairBatch, Params
from safedpo_jax.train.forward import Forward
from safedpo_jax.train.state import TrainState

Metrics = dict[str, Total]
Step = Callable[[TrainState, Params | None, PairBatch], tuple[TrainState, Metrics]]


def make_train_step(
    forward: Forward,
    objective: Objective,
    hyperparameters: Mapping[str, Any],
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    *,
    axis_name: str | None = None,
) -> Step:
    """A pure function (state, reference, batch) -> (state, metrics); jit it with `donate_argnums=0`, or pmap it with `axis_name`.

    Args:
      forward: how the model runs.
      objective: row of `losses.OBJECTIVES`.
      hyperparameters: the objective's, by name.
      optimizer: Optax chain.
      learning_rate: the schedule inside it, for the log.
      axis_name: pmap axis over which sums are added; None under jit, where the mesh does it.
    """
    sums = make_loss_sums(forward, objective, hyperparameters)

    def step(state: TrainState, reference: Params | None, batch: PairBatch) -> tuple[TrainState, Metrics]:
        with jax.named_scope("accumulate"):
            gradients, loss, metrics = _accumulate(sums, forward.cast(state.params), reference, batch)
        if axis_name is not None:
            gradients, loss, metrics = jax.lax.psum((gradients, loss, metrics), axis_name)
        gradients = jax.tree.map(lambda leaf: leaf / jnp.maximum(loss.weight, 1e-9), gradients)
        norm = optax.tree.norm(gradients)
        finite = jnp.isfinite(norm) & jnp.isfinite(loss.total)
        update = finite & (loss.weight > 0)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = jax.tree.map(lambda leaf, change: (leaf.astype(change.dtype) + change).astype(leaf.dtype), state.params, updates)
        chosen = jax.tree.map(lambda new, old: jnp.where(update, new, old), (params, opt_state), (state.params, state.opt_state))
        one = jnp.ones((), jnp.float32)
        metrics |= {
            "loss": loss,
            "grad_norm": Total(norm, one),
            "learning_rate": Total(jnp.asarray(learning_rate(state.step - state.skipped), jnp.float32), one),
        }
        skipped = state.skipped + (~finite).astype(jnp.int32)
        return TrainState(state.step + 1, skipped, state.rng, *chosen), metrics

    return step


def make_loss_sums(forward: Forward, objective: Objective, hyperparameters: Mapping[str, Any]) -> Callable[..., tuple[Total, Metrics]]:
    """A pure function (params, reference, microbatch, groups=1) -> (loss total, metric totals); params in compute dtype.

    The reference's log-probs come from the batch when it carries them, else from the frozen tree: the loss cannot tell which.
    """

    def sums(params: Params, reference: Params | None, batch: PairBatch, groups: int = 0) -> tuple[Total, Metrics]:
        policy = forward.logps(params, batch)
        anchor = reference_logps(forward, reference, batch) if objective.reference else None
        values, weights = losses.pair_loss(objective, policy, anchor, batch, **hyperparameters)
        loss = losses.weighted_sum(values, weights)
        frozen = jax.lax.stop_gradient(policy)
        metrics = preference.batch_metrics(
            objective, frozen, anchor, batch, values, weights, beta=hyperparameters.get("beta"), groups=groups
        )
        return loss, metrics

    return sums


def counts(batch: PairBatch) -> Metrics:
    """`tokens`: (real tokens, tokens computed), whose ratio is the useful share of the rows; `examples`: (examples, 1)."""
    real = jnp.sum(batch.segments != PADDING).astype(jnp.float32)
    return {
        "tokens": Total(real, jnp.full((), batch.segments.size, jnp.float32)),
        "examples": Total(jnp.sum(batch.weight > 0).astype(jnp.float32), jnp.ones((), jnp.float32)),
    }


def reference_logps(forward: Forward, reference: Params | None, batch: PairBatch) -> tuple[jax.Array, jax.Array]:
    """Log-probs under the frozen reference: read from the batch, or computed from the tree without a gradient."""
    if batch.reference_chosen_logps is not None:
        return batch.reference_chosen_logps, batch.reference_rejected_logps
    if reference is None:
        raise ValueError("the objective needs a reference: pass its parameter tree, or a batch that carries reference log-probs")
    return jax.lax.stop_gradient(forward.logps(jax.lax.stop_gradient(reference), batch))


def used_microbatches(batch: PairBatch) -> jax.Array:
    """int32 scalar: one past the last microbatch that holds a pair of non-zero weight."""
    count = batch.weight.shape[0]
    used = jnp.any(batch.weight.reshape(count, -1) > 0, axis=1)
    return jnp.max(jnp.where(used, jnp.arange(1, count + 1, dtype=jnp.int32), 0))


def _accumulate(sums: Callable[..., tuple[Total, Metrics]], params: Params, reference: Params | None, batch: PairBatch) -> Any:
    """Float32 sums over microbatches: (gradients, loss, metrics)."""

    def one(index: jax.Array | int) -> Any:
        micro = jax.tree.map(lambda leaf: leaf[index], batch)

        def objective_sum(weights: Params) -> tuple[jax.Array, tuple[Total, Metrics]]:
            loss, metrics = sums(weights, reference, micro)
            return loss.total, (loss, metrics | counts(micro))

        gradients, (loss, metrics) = jax.grad(objective_sum, has_aux=True)(params)
        return jax.tree.map(lambda leaf: leaf.astype(accumulation_dtype(leaf.dtype)), (gradients, loss, metrics))

    if batch.weight.shape[0] == 1:
        return one(0)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(one, 0))
    return jax.lax.fori_loop(0, used_microbatches(batch), lambda index, carry: jax.tree.map(jnp.add, carry, one(index)), zeros)
