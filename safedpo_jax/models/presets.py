"""Named architectures with their public hyper-parameters, to be randomly initialised: tests, benchmarks, planning, runs from scratch.

Numbers are those of the config.json files that the model's authors published.
"""

import dataclasses
from typing import Any

from safedpo_jax import checks
from safedpo_jax.models.config import LlamaConfig
from safedpo_jax.models.rope import Rope


def _shape(
    vocab_size: int,
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    kv_heads: int,
    positions: int,
    **settings: Any,
) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=hidden // heads,
        max_position_embeddings=positions,
        **settings,
    )


def _llama31(factor: float) -> Rope:
    return Rope("llama3", 500000.0, factor, 8192, low_freq_factor=1.0, high_freq_factor=4.0)


_QWEN = {"family": "qwen2", "qkv_bias": True, "rms_norm_eps": 1e-6, "rope": Rope(rope_theta=1e6)}
_LLAMA3 = {"rms_norm_eps": 1e-5, "rope": Rope(rope_theta=500000.0)}

PRESETS: dict[str, LlamaConfig] = {
    # From scratch. "10m" and so on count parameters at a vocabulary of 32000 with a tied head.
    "tiny": _shape(512, 32, 64, 2, 4, 2, 512, tie_word_embeddings=True),
    "world": _shape(1024, 128, 384, 2, 4, 4, 512, tie_word_embeddings=True),  # the embedded world's quickstart
    "10m": _shape(32000, 192, 512, 8, 6, 6, 2048, tie_word_embeddings=True),
    "20m": _shape(32000, 320, 864, 8, 5, 5, 2048, tie_word_embeddings=True),
    "110m": _shape(32000, 768, 2048, 12, 12, 12, 2048, tie_word_embeddings=True),
    # Llama 1 (Alpaca and the base of PKU's reproduced Alpaca have one more row, for padding), 2 and 3
    "llama-7b": _shape(32000, 4096, 11008, 32, 32, 32, 2048, rms_norm_eps=1e-6),
    "alpaca-7b": _shape(32001, 4096, 11008, 32, 32, 32, 2048, rms_norm_eps=1e-6),
    "llama-13b": _shape(32000, 5120, 13824, 40, 40, 40, 2048, rms_norm_eps=1e-6),
    "llama2-7b": _shape(32000, 4096, 11008, 32, 32, 32, 4096, rms_norm_eps=1e-5),
    "llama2-13b": _shape(32000, 5120, 13824, 40, 40, 40, 4096, rms_norm_eps=1e-5),
    "llama3-8b": _shape(128256, 4096, 14336, 32, 32, 8, 8192, **_LLAMA3),
    "llama3.1-8b": _shape(128256, 4096, 14336, 32, 32, 8, 131072, rms_norm_eps=1e-5, rope=_llama31(8.0)),
    "llama3.2-1b": _shape(128256, 2048, 8192, 16, 32, 8, 131072, tie_word_embeddings=True, rms_norm_eps=1e-5, rope=_llama31(32.0)),
    "llama3.2-3b": _shape(128256, 3072, 8192, 28, 24, 8, 131072, tie_word_embeddings=True, rms_norm_eps=1e-5, rope=_llama31(32.0)),
    "mistral-7b-v0.2": _shape(32000, 4096, 14336, 32, 32, 8, 32768, family="mistral", rms_norm_eps=1e-5, rope=Rope(rope_theta=1e6)),
    "mistral-7b-v0.3": _shape(32768, 4096, 14336, 32, 32, 8, 32768, family="mistral", rms_norm_eps=1e-5, rope=Rope(rope_theta=1e6)),
    "qwen2.5-0.5b": _shape(151936, 896, 4864, 24, 14, 2, 32768, tie_word_embeddings=True, **_QWEN),
    "qwen2.5-1.5b": _shape(151936, 1536, 8960, 28, 12, 2, 32768, tie_word_embeddings=True, **_QWEN),
    "qwen2.5-3b": _shape(151936, 2048, 11008, 36, 16, 2, 32768, tie_word_embeddings=True, **_QWEN),
    "qwen2.5-7b": _shape(152064, 3584, 18944, 28, 28, 4, 32768, **_QWEN),
}


def preset(name: str, *, vocab_size: int | None = None) -> LlamaConfig:
    """The config of a named architecture.

    Args:
      name: a key of PRESETS.
      vocab_size: replaces the preset's vocabulary, to fit a tokenizer; None keeps it.
    Raises:
      UsageError: no such preset (the nearest is named).
    """
    checks.one_of("The model preset", name, PRESETS)
    config = PRESETS[name]
    return config if vocab_size is None else dataclasses.replace(config, vocab_size=vocab_size)
