"""What is said about the examples before anything is trained on them."""

import json

import pytest

from safedpo_jax import config
from safedpo_jax.train.examples import load_examples
from tests.data import toy


@pytest.mark.parametrize(("name", "unsafe", "warned"), [("safedpo", True, False), ("safedpo", False, True), ("dpo", False, False)])
def test_a_safety_loss_without_a_pair_that_says_what_is_safe_is_warned_about(tmp_path, name, unsafe, warned):
    toy.tokenizer().save_pretrained(tmp_path / "tokenizer")
    rows = [{"prompt": str(n), "chosen": "yes", "rejected": "no", "chosen_unsafe": False, "rejected_unsafe": unsafe} for n in range(3)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = config.Config(
        data=config.Data(train=str(tmp_path / "pairs.jsonl")),
        tokenizer=config.Tokenizer(path=str(tmp_path / "tokenizer")),
        loss=config.Loss(name=name),
    )
    said = []
    load_examples(settings, config.loss_terms(settings.loss), said.append)
    assert any("WARNING: no pair has exactly one unsafe response" in line for line in said) == warned
