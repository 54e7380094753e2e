"""The safety order of a pair: SafeDPO's transformation T(D) as arrays of fixed shape (arXiv:2505.20065, section 3)."""

import jax.numpy as jnp
from jaxtyping import Bool, Int

from safedpo_jax.losses import inputs
from safedpo_jax.losses.inputs import Array


def safety_order(
    chosen_unsafe: Bool[Array, "*batch"], rejected_unsafe: Bool[Array, "*batch"]
) -> tuple[Bool[Array, "*batch"], Int[Array, "*batch"], Bool[Array, "*batch"]]:
    """How T treats each pair, where `chosen` is the annotator's more helpful response.

        chosen    rejected   T
        safe      safe       keep
        safe      unsafe     keep, mixed
        unsafe    safe       swap, mixed: safe beats unsafe whatever the annotator preferred
        unsafe    unsafe     drop

    Args:
      chosen_unsafe: True where the chosen response is unsafe.
      rejected_unsafe: True where the rejected response is unsafe.

    Returns:
      swap: bool, True where the two responses (with all that belongs to them) change places.
      offset: int32, 1 where the pair is mixed and carries the safety margin, else 0.
      keep: bool, False where both responses are unsafe and the pair teaches nothing.

    Raises:
      ValueError: the arrays differ in shape.
      TypeError: an array is not boolean.
    """
    chosen, rejected = inputs.flags("safety_order", chosen_unsafe=chosen_unsafe, rejected_unsafe=rejected_unsafe)
    return chosen & ~rejected, (chosen ^ rejected).astype(jnp.int32), ~(chosen & rejected)
