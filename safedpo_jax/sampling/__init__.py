"""Generation from a policy: token ids in, token ids and their log-probs out."""

from safedpo_jax.sampling.ends import end_tokens as end_tokens
from safedpo_jax.sampling.filters import filter_logits as filter_logits
from safedpo_jax.sampling.filters import top_k as top_k
from safedpo_jax.sampling.filters import top_p as top_p
from safedpo_jax.sampling.generate import Generation as Generation
from safedpo_jax.sampling.generate import check_settings as check_settings
from safedpo_jax.sampling.generate import generate as generate
from safedpo_jax.sampling.generate import program as program
from safedpo_jax.sampling.text import Completion as Completion
from safedpo_jax.sampling.text import generate_text as generate_text
from safedpo_jax.sampling.text import sample_keys as sample_keys

__all__ = [
    "Completion",
    "Generation",
    "check_settings",
    "end_tokens",
    "filter_logits",
    "generate",
    "generate_text",
    "program",
    "sample_keys",
    "top_k",
    "top_p",
]
