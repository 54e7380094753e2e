"""Flax ports of language models. A model is a config, functions and a plain parameter tree; NNX stays inside this folder.

model = models.load_pretrained("path/to/Llama-2-7b-hf", jnp.bfloat16)
logits = model.apply(model.params, tokens)
models.save_pretrained("out", model.config, model.params, source="path/to/Llama-2-7b-hf")
"""

from safedpo_jax.models.config import LlamaConfig, ModelOptions
from safedpo_jax.models.families import FAMILIES
from safedpo_jax.models.load import load_pretrained, read_config
from safedpo_jax.models.model import Model, abstract_params, create
from safedpo_jax.models.presets import PRESETS, preset
from safedpo_jax.models.rope import Rope
from safedpo_jax.models.save import save_pretrained
from safedpo_jax.models.tree import parameter_count

__all__ = [
    "FAMILIES",
    "PRESETS",
    "LlamaConfig",
    "Model",
    "ModelOptions",
    "Rope",
    "abstract_params",
    "create",
    "load_pretrained",
    "parameter_count",
    "preset",
    "read_config",
    "save_pretrained",
]
