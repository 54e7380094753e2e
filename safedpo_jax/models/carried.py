"""What a model directory holds besides weights: config.json, and the files that travel with a model unread."""

from pathlib import Path
from typing import Any

from safedpo_jax import checks, storage
from safedpo_jax.models.families import family_of
from safedpo_jax.storage import AnyPath

CARRIED = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model"),
    *("chat_template*", "additional_chat_templates", "generation_config.json", "LICENSE*", "NOTICE*", "USE_POLICY*"),
)


def describe(config: Any) -> dict[str, Any]:
    """The content of config.json, but for the dtype of the weights.

    Raises:
      UserError: the family's dialect cannot say what the model is.
    """
    family = family_of(config)
    return {**family.write(config), "architectures": [family.architectures[0]], "model_type": family.name}


def check_source(source: str | Path | None) -> None:
    """Raises UserError unless `source` is None or a directory."""
    if source is not None and not Path(source).is_dir():
        raise checks.UserError(f"There is no directory {source} to take the tokenizer from.")


def carry(source: str | Path | None, target: AnyPath) -> None:
    """Copies tokenizer, chat template, generation config and licence files of a model directory."""
    check_source(source)
    for found in {path for pattern in CARRIED for path in Path(source).glob(pattern)} if source is not None else ():
        storage.copy_into(found, target / found.name)
