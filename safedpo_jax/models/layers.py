"""Small NNX layers that the families share. Parameters are drawn in the dtype asked for; compute follows the parameters."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Integer

from safedpo_jax.models.precision import at_least_float32


class Embed(nnx.Module):
    """A table of vectors. nnx.Embed would return the dtype it was built with, not that of the parameters it is given."""

    def __init__(self, rows: int, features: int, *, stddev: float, dtype: jax.typing.DTypeLike, rngs: nnx.Rngs):
        self.embedding = nnx.Param(nnx.initializers.normal(stddev)(rngs.params(), (rows, features), dtype))

    def __call__(self, tokens: Integer[Array, "b t"]) -> Float[Array, "b t f"]:
        return jnp.take(self.embedding[...], tokens, axis=0, mode="fill")  # an id past the end gives NaN, not its neighbour


class RMSNorm(nnx.Module):
    """x / rms(x) * scale, the statistics in float32 (arXiv:1910.07467)."""

    def __init__(self, features: int, *, epsilon: float, dtype: jax.typing.DTypeLike):
        self.scale = nnx.Param(jnp.ones((features,), dtype))
        self.epsilon = epsilon

    def __call__(self, inputs: Float[Array, "b t f"]) -> Float[Array, "b t f"]:
        precise = inputs.astype(at_least_float32(inputs.dtype))
        variance = jnp.mean(jnp.square(precise), axis=-1, keepdims=True)
        normed = precise * jax.lax.rsqrt(variance + self.epsilon)
        return normed.astype(inputs.dtype) * self.scale[...][None, None, :]


class GatedMLP(nnx.Module):
    """down(silu(gate(x)) * up(x)) (SwiGLU, arXiv:2002.05202)."""

    def __init__(self, features: int, width: int, *, use_bias: bool, stddev: float, dtype: jax.typing.DTypeLike, rngs: nnx.Rngs):
        self.gate = linear(features, width, use_bias=use_bias, stddev=stddev, dtype=dtype, rngs=rngs)
        self.up = linear(features, width, use_bias=use_bias, stddev=stddev, dtype=dtype, rngs=rngs)
        self.down = linear(width, features, use_bias=use_bias, stddev=stddev, dtype=dtype, rngs=rngs)

    def __call__(self, inputs: Float[Array, "b t f"]) -> Float[Array, "b t f"]:
        return self.down(jax.nn.silu(self.gate(inputs)) * self.up(inputs))


def linear(inputs: int, outputs: int, *, use_bias: bool, stddev: float, dtype: jax.typing.DTypeLike, rngs: nnx.Rngs) -> nnx.Linear:
    """A projection with kernel [inputs, outputs], drawn from a normal of `stddev`; bias zero."""
    normal = nnx.initializers.normal(stddev)
    return nnx.Linear(inputs, outputs, use_bias=use_bias, kernel_init=normal, param_dtype=dtype, rngs=rngs)
