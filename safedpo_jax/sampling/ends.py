"""The tokens that end an answer of a model directory."""

from pathlib import Path
from typing import Any

from safedpo_jax import checks
from safedpo_jax.models import shards


def end_tokens(directory: str | Path, tokenizer: Any) -> list[int]:
    """Ids that end an answer: the tokenizer's end of sequence, and those of generation_config.json, if it is there (chat models have several).

    Args:
      directory: of the model.
      tokenizer: from `data.load_tokenizer`.

    Raises:
      UserError: generation_config.json is not readable, or names something else than token ids.
    """
    file, found = Path(directory) / "generation_config.json", {tokenizer.eos_token_id}
    if file.is_file():
        said = shards.read_json(file).get("eos_token_id")
        named = said if isinstance(said, list) else [] if said is None else [said]
        if not all(type(token) is int for token in named):
            raise checks.UserError(f"{file}: eos_token_id must be a token id or a list of them, found {said!r}; repair or remove it")
        found |= set(named)
    return sorted(found)
