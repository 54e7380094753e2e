"""What a model is made of (LlamaConfig) and how it is run (ModelOptions)."""

import dataclasses
from typing import Any

from safedpo_jax import checks
from safedpo_jax.models.attention import IMPLEMENTATIONS
from safedpo_jax.models.rope import Rope

REMAT = ("none", "full")


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """How a model is run; has no effect on its numbers beyond rounding.

    Attributes:
      remat: `full` recomputes every layer's activations in the backward pass, `none` keeps them.
      attention: `auto`, `einsum` or `jax`, see `attention.attend`.
    """

    remat: str = "none"
    attention: str = "auto"

    def __post_init__(self) -> None:
        checks.one_of("remat", self.remat, REMAT)
        checks.one_of("attention", self.attention, IMPLEMENTATIONS)


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """Shape of a Llama-like decoder. Names are those of Hugging Face's config.json, except the three biases.

    Attributes:
      family: which name table and config.json dialect it speaks: `llama`, `mistral` or `qwen2`.
      qkv_bias: biases on the query, key and value projections (`attention_bias` of Llama; always in Qwen2).
      output_bias: bias on the attention's output projection (`attention_bias` of Llama; never in Qwen2).
      mlp_bias: biases on the three MLP projections.
      extra: keys of config.json that do not touch the maths (token ids and the like); written back on export.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    family: str = "llama"
    rms_norm_eps: float = 1e-6
    rope: Rope = dataclasses.field(default_factory=Rope)
    tie_word_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    initializer_range: float = 0.02
    extra: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False, compare=False)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int and value < 1:
                raise checks.UserError(f"{field.name} must be positive, got {value}.")
        if self.num_attention_heads % self.num_key_value_heads:
            raise checks.UserError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of num_key_value_heads {self.num_key_value_heads}: "
                "every key/value head has to serve the same number of query heads."
            )
        if self.head_dim % 2:
            raise checks.UserError(f"head_dim must be even for rotary positions, got {self.head_dim}.")
