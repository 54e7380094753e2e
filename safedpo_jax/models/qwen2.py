"""Qwen2 and Qwen2.5: Llama with biases on query, key and value."""

import dataclasses
from typing import Any

from safedpo_jax import checks
from safedpo_jax.models import hf_config, llama
from safedpo_jax.models.config import LlamaConfig


def read(raw: dict[str, Any]) -> LlamaConfig:
    """LlamaConfig from a config.json of type `qwen2`. Its window counts only if `use_sliding_window` is true."""
    if hf_config.boolean(raw, "use_sliding_window", False):
        hf_config.refuse_window(raw, raw.get("sliding_window", 4096), "use_sliding_window")
    if "sliding_attention" in (raw.get("layer_types") or ()):
        raise checks.UserError(
            "layer_types names sliding_attention layers, which this port does not have; only full_attention is supported."
        )
    return hf_config.read(raw, "qwen2", max_position_embeddings=32768, vocab_size=151936, qkv_bias=True)


def write(config: LlamaConfig) -> dict[str, Any]:
    """The `qwen2` dialect of config.json."""
    hf_config.expect_biases(config, qkv_bias=True, output_bias=False, mlp_bias=False)
    return {**hf_config.write(config), "use_sliding_window": False}


FAMILY = dataclasses.replace(llama.FAMILY, name="qwen2", architectures=("Qwen2ForCausalLM",), read=read, write=write)
