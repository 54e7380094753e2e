"""From ordered text pairs (or supervised records) to token ids with an exact boundary between prompt and response.

The prompt alone and prompt + response are tokenised as whole strings. A prompt's ids are the longest token prefix that the prompt alone and
every response's conversation share, so both responses of a pair continue the very same ids. If a tokenizer merges across the boundary, the
prompt tokens beyond that prefix are scored as part of the response (for both responses alike; the model conditions on what both share), and
the report counts them. A response ends at its first end-of-sequence token, which is appended where the text has none and is scored.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from safedpo_jax import checks
from safedpo_jax.data.examples import TokenizedExamples, from_ids
from safedpo_jax.data.fitting import DROPS, Fitted, Limits, fit_example
from safedpo_jax.data.ordering import OrderedPair
from safedpo_jax.data.records import Message, SftRecord
from safedpo_jax.data.scores import score_columns, weight_column
from safedpo_jax.data.templates import Template, get_template
from safedpo_jax.data.tokenizers import Tokenizer, encode_texts

AT_ONCE = 1000
"""Examples whose texts and ids are held at a time: few enough that what is read again is still in the processor's cache."""


@dataclass
class TokenizationReport:
    """What became of the examples. Every dropped example is under exactly one reason of `fitting.DROPS`."""

    template: str
    examples: int
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DROPS, 0))
    first_dropped: dict[str, str] = field(default_factory=dict)
    """Per reason, the file and line of the first example it hit."""
    truncated_prompts: int = 0
    truncated_responses: int = 0
    early_eos_responses: int = 0
    """Responses whose text holds the end-of-sequence token; they end there."""
    boundary_examples: int = 0
    """Examples whose tokenizer merged across the boundary between prompt and response."""
    boundary_tokens: int = 0
    """Prompt tokens scored with the response for that reason."""
    unflagged: int = 0
    """Kept pairs without safety flags. They count as not mixed wherever flags are read; an ordering that needs flags lets none through."""
    weighted: int = 0
    """Kept pairs whose pair_weight is not 1."""
    cost_against_flag: int = 0
    """Responses of kept, flagged pairs whose cost is > 0 although they are flagged safe, or not although unsafe; 0 if costs are not read."""
    prompt_tokens: int = 0
    response_tokens: int = 0

    @property
    def dropped_total(self) -> int:
        """Examples that did not survive, over all reasons."""
        return sum(self.dropped.values())

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a JSON log."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Sentences for the console: always the totals, the rest only where something happened."""
        tokens = f"{self.prompt_tokens} prompt tokens, {self.response_tokens} scored response tokens"
        lines = [f"tokenized {self.examples} examples with template '{self.template}': kept {self.kept}, {tokens}"]
        for reason, count in self.dropped.items():
            if count:
                lines.append(f"dropped {count}: {DROPS[reason]} (first: {self.first_dropped[reason]})")
        happened = {
            "pairs have no safety flags": self.unflagged,
            "pairs weigh other than 1": self.weighted,
            "responses whose cost contradicts their safety flag (a cost > 0 means unsafe)": self.cost_against_flag,
            "prompts cut on the left": self.truncated_prompts,
            "responses cut on the right": self.truncated_responses,
            "responses end early at an end-of-sequence token in their text": self.early_eos_responses,
            f"examples with tokens merged across the boundary ({self.boundary_tokens} prompt tokens scored)": self.boundary_examples,
        }
        return lines + [f"{count} {what}" for what, count in happened.items() if count]

    def count(self, outcome: Fitted | str, where: str) -> None:
        """Adds one example."""
        if isinstance(outcome, str):
            self.dropped[outcome] += 1
            self.first_dropped.setdefault(outcome, where)
            return
        self.kept += 1
        self.truncated_prompts += outcome.prompt_cut
        self.truncated_responses += outcome.responses_cut
        self.early_eos_responses += outcome.early_eos
        self.boundary_examples += outcome.boundary_tokens > 0
        self.boundary_tokens += outcome.boundary_tokens
        self.prompt_tokens += len(outcome.prompt)
        self.response_tokens += sum(map(len, outcome.responses))


def tokenize_pairs(
    pairs: Sequence[OrderedPair],
    tokenizer: Tokenizer,
    *,
    template: str = "auto",
    max_length: int = 512,
    truncation: str = "drop",
    long_prompt: str = "drop",
    row_length: int | None = None,
    max_dropped_share: float = 0.5,
    scores: Sequence[str] = (),
) -> tuple[TokenizedExamples, TokenizationReport]:
    """Tokenizes preference pairs; both responses of a pair keep the same prompt ids.

    Args:
      pairs: in safety or helpfulness order, from `ordering.order_pairs`.
      tokenizer: from `tokenizers.load_tokenizer`.
      template: a name of `templates.TEMPLATES`.
      max_length: most tokens of prompt + one response, end-of-sequence included.
      truncation: what happens to a response that does not fit: `drop` the pair, `keep_without_eos` (cut on the right), or
        `force_eos` (cut, then end with EOS).
      long_prompt: what happens to a prompt that leaves no room for a response token and EOS: `drop` the pair, or `truncate_left`, which
        cuts a prompt only as far as the longer response needs, and never below half of `max_length`.
      row_length: if given, pairs that need more tokens than a packed row has are dropped and counted.
      max_dropped_share: the largest share of examples that may be dropped.
      scores: public names (`data.SCORES`) of the columns that the objective reads; no other is carried. Weights always are.

    Returns:
      The examples that survived, in order, and the counts.

    Raises:
      UserError: every example, or more than `max_dropped_share` of them, was dropped; the message has the counts. Or a pair that is kept
        lacks a score that is asked for, or all pairs weigh 0.
      UsageError: an unknown policy, template or score, or a max_length below 4.
    """
    limits = Limits(max_length, truncation, long_prompt, row_length)
    responses = [(pair.chosen, pair.rejected) for pair in pairs]
    fitted, report = _fit_all(pairs, responses, tokenizer, template, limits, max_dropped_share)
    kept = [pairs[index] for index in fitted]
    columns, weights = score_columns(kept, scores), weight_column(kept)
    flagged = [pair.chosen_unsafe is not None and pair.rejected_unsafe is not None for pair in kept]
    report.unflagged = flagged.count(False)
    examples = from_ids(
        [(outcome.prompt, outcome.responses[0], outcome.responses[1]) for outcome in fitted.values()],
        chosen_unsafe=[known and bool(pair.chosen_unsafe) for pair, known in zip(kept, flagged, strict=True)],
        rejected_unsafe=[known and bool(pair.rejected_unsafe) for pair, known in zip(kept, flagged, strict=True)],
        helpful=[pair.helpful for pair in kept],
        example_id=[pair.row for pair in kept],
        source=[pair.source for pair in kept],
        weight=weights,
        scores=columns,
    )
    report.weighted = int((weights != 1).sum())
    report.cost_against_flag = _costs_against_flags(examples, np.asarray(flagged, bool))
    return examples, report


def _costs_against_flags(examples: TokenizedExamples, flagged: np.ndarray) -> int:
    """Responses of the flagged pairs whose cost and safety flag say different things."""
    costs = {"chosen": examples.scores.get("chosen_cost"), "rejected": examples.scores.get("rejected_cost")}
    unsafe = {"chosen": examples.chosen_unsafe, "rejected": examples.rejected_unsafe}
    return sum(int((((cost > 0) != unsafe[role]) & flagged).sum()) for role, cost in costs.items() if cost is not None)


def tokenize_sft(
    records: Sequence[SftRecord],
    tokenizer: Tokenizer,
    *,
    template: str = "auto",
    max_length: int = 512,
    truncation: str = "drop",
    long_prompt: str = "drop",
    row_length: int | None = None,
    max_dropped_share: float = 0.5,
) -> tuple[TokenizedExamples, TokenizationReport]:
    """Tokenizes supervised records: the response is the chosen one, the rejected one is empty. Arguments and errors as `tokenize_pairs`.

    A record's flag is carried as `chosen_unsafe`, None as False: whoever reads it lets no unlabelled record through (`select_labelled`).
    """
    limits = Limits(max_length, truncation, long_prompt, row_length)
    responses = [(record.response,) for record in records]
    fitted, report = _fit_all(records, responses, tokenizer, template, limits, max_dropped_share)
    kept = [records[index] for index in fitted]
    nothing = np.zeros(0, np.int32)
    examples = from_ids(
        [(outcome.prompt, outcome.responses[0], nothing) for outcome in fitted.values()],
        chosen_unsafe=[bool(record.unsafe) for record in kept],
        rejected_unsafe=[False] * len(kept),
        helpful=[0] * len(kept),
        example_id=[record.row for record in kept],
        source=[record.source for record in kept],
    )
    return examples, report


def encode_prompts(prompts: Sequence[Sequence[Message]], tokenizer: Tokenizer, *, template: str = "auto") -> list[np.ndarray]:
    """Ids (int32) of each prompt as a sampler needs them: rendered like a training prompt, up to where the response begins."""
    render = get_template(template, tokenizer).prompt
    return encode_texts(tokenizer, [render(prompt) for prompt in prompts])


def _fit_all(
    items: Sequence[Any],
    responses: Sequence[tuple[str, ...]],
    tokenizer: Tokenizer,
    template: str,
    limits: Limits,
    max_dropped_share: float,
) -> tuple[dict[int, Fitted], TokenizationReport]:
    """Renders, encodes and fits everything: the survivors by index, and the counts."""
    form = get_template(template, tokenizer)
    report = TokenizationReport(form.name, len(items))
    fitted = {}
    for start in range(0, len(items), AT_ONCE):
        part = range(start, min(start + AT_ONCE, len(items)))
        ids = iter(encode_texts(tokenizer, [text for index in part for text in _render(form, items[index], responses[index])]))
        for index in part:
            answers = responses[index]
            prompt, conversations = next(ids), [next(ids) for _ in answers]
            if any(not answer.strip() for answer in answers):
                outcome = "empty_response"
            else:
                outcome = fit_example(prompt, conversations, limits, eos=tokenizer.eos_token_id, bos=tokenizer.bos_token_id)
            report.count(outcome, items[index].where)
            if isinstance(outcome, Fitted):
                fitted[index] = outcome
    _check_survivors(report, limits, max_dropped_share)
    return fitted, report


def _render(form: Template, item: Any, answers: tuple[str, ...]) -> list[str]:
    try:
        return [form.prompt(item.prompt), *(form.conversation(item.prompt, answer) for answer in answers)]
    except checks.UserError as error:
        raise checks.UserError(f"{item.where}: {error}") from error


def _check_survivors(report: TokenizationReport, limits: Limits, max_dropped_share: float) -> None:
    share = report.dropped_total / max(report.examples, 1)
    if report.kept and share <= max_dropped_share:
        return
    reasons = Counter({DROPS[reason]: count for reason, count in report.dropped.items() if count}).most_common()
    listing = "; ".join(f"{count} {reason}" for reason, count in reasons) or "there were none to begin with"
    raise checks.UserError(
        f"Tokenization dropped {report.dropped_total} of {report.examples} examples ({share:.0%}; at most {max_dropped_share:.0%} may go): "
        f"{listing}. Raise max_length (now {limits.max_length}), choose a truncation policy that keeps them (now '{limits.truncation}', "
        f"prompts '{limits.long_prompt}'), or raise the allowed share."
    )
