"""Mistral without a sliding window (7B v0.2 and later; v0.1 only after its window was set to null): Llama without biases."""

import dataclasses
from typing import Any

from safedpo_jax.models import hf_config, llama
from safedpo_jax.models.config import LlamaConfig


def read(raw: dict[str, Any]) -> LlamaConfig:
    """LlamaConfig from a config.json of type `mistral`. A missing `sliding_window` means 4096, as in transformers."""
    hf_config.refuse_window(raw, raw.get("sliding_window", 4096), "sliding_window")
    return hf_config.read(raw, "mistral", max_position_embeddings=131072)


def write(config: LlamaConfig) -> dict[str, Any]:
    """The `mistral` dialect of config.json."""
    hf_config.expect_biases(config, qkv_bias=False, output_bias=False, mlp_bias=False)
    window = config.extra.get("sliding_window")  # null, or no shorter than the context
    return {**hf_config.write(config), "sliding_window": window}


FAMILY = dataclasses.replace(llama.FAMILY, name="mistral", architectures=("MistralForCausalLM",), read=read, write=write)
