"""One example's ids: the split between prompt and response, the end-of-sequence token, and what is done when they do not fit."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from safedpo_jax.checks import UsageError, one_of

TRUNCATIONS = ("drop", "keep_without_eos", "force_eos")
LONG_PROMPTS = ("drop", "truncate_left")
ROOM = 2  # a prompt must leave room for one response token and the end-of-sequence token

DROPS = {
    "empty_response": "a response is empty",
    "no_prompt": "not one prompt token stands before the response",
    "long_prompt": "the prompt leaves no room for a response",
    "long_response": "prompt and response are longer than max_length",
    "identical_responses": "both responses have the same tokens",
    "long_row": "the pair does not fit a packed row",
}
"""Reasons to drop an example, as words for a report; checked in this order."""


@dataclass(frozen=True)
class Limits:
    """How long examples may be and what happens to longer ones; see `tokenization.tokenize_pairs`."""

    max_length: int
    truncation: str = "drop"
    long_prompt: str = "drop"
    row_length: int | None = None

    def __post_init__(self) -> None:
        one_of("truncation", self.truncation, TRUNCATIONS)
        one_of("long_prompt", self.long_prompt, LONG_PROMPTS)
        if self.max_length < 2 * ROOM:
            raise UsageError(f"max_length must be at least {2 * ROOM}, got {self.max_length}.")


@dataclass(frozen=True)
class Fitted:
    """One surviving example: ids, and what was done to it."""

    prompt: np.ndarray
    responses: tuple[np.ndarray, ...]
    prompt_cut: bool
    responses_cut: int
    early_eos: int
    boundary_tokens: int
    """Prompt tokens that had to be scored with the responses."""


def fit_example(
    prompt: Int[np.ndarray, " _"], conversations: Sequence[np.ndarray], limits: Limits, *, eos: int, bos: int | None
) -> Fitted | str:
    """Splits, ends and truncates one example; returns a key of `DROPS` when it has to go.

    What is kept depends on this example alone, never on its neighbours in a batch.

    Args:
      prompt: ids of the prompt alone.
      conversations: ids of prompt + response, one or two, without the closing end-of-sequence token.
      limits: lengths and policies.
      eos: id of that token.
      bos: id of the beginning-of-sequence token, which a prompt cut on the left keeps.
    """
    split = min(common_prefix(prompt, conversation) for conversation in conversations)
    ended = [end_once(conversation[split:], eos) for conversation in conversations]
    responses = [response for response, _ in ended]
    if min(map(len, responses)) < ROOM:
        return "empty_response"
    if split == 0:
        return "no_prompt"
    kept = cut_prompt(prompt[:split], max(map(len, responses)), limits, bos)
    room = limits.max_length - len(kept)
    if room < ROOM:
        return "long_prompt"
    long = sum(len(response) > room for response in responses)
    if long and limits.truncation == "drop":
        return "long_response"
    cut = [cut_response(response, room, limits) for response in responses]
    if len(cut) == 2 and np.array_equal(cut[0], cut[1]):
        return "identical_responses"
    if limits.row_length is not None and len(kept) - 1 + sum(map(len, cut)) > limits.row_length:
        return "long_row"
    return Fitted(kept, tuple(cut), len(kept) < split, long, sum(early for _, early in ended), len(prompt) - split)


def common_prefix(left: Int[np.ndarray, " _a"], right: Int[np.ndarray, " _b"]) -> int:
    """Number of leading tokens that are equal."""
    size = min(len(left), len(right))
    differ = np.flatnonzero(left[:size] != right[:size])
    return int(differ[0]) if len(differ) else size


def end_once(response: Int[np.ndarray, " _"], eos: int) -> tuple[np.ndarray, bool]:
    """The response up to its first end-of-sequence token, or with one appended; and whether it had one of its own before its end."""
    found = np.flatnonzero(response == eos)
    if len(found):
        return response[: found[0] + 1], bool(found[0] + 1 < len(response))
    return np.append(response, np.asarray(eos, response.dtype)), False


def cut_prompt(prompt: Int[np.ndarray, " _"], longest_response: int, limits: Limits, bos: int | None) -> np.ndarray:
    """The prompt with its oldest tokens cut if the policy says so and prompt + longest response do not fit; a leading BOS stays."""
    if limits.long_prompt == "drop" or len(prompt) + longest_response <= limits.max_length:
        return prompt
    room = max(limits.max_length - longest_response, limits.max_length // 2)
    if len(prompt) <= room:
        return prompt
    if prompt[0] == bos:
        return np.concatenate([prompt[:1], prompt[len(prompt) - room + 1 :]])
    return prompt[len(prompt) - room :]


def cut_response(response: Int[np.ndarray, " _"], room: int, limits: Limits) -> np.ndarray:
    """The response if it fits, else its beginning, with or without an end-of-sequence token."""
    if len(response) <= room:
        return response
    return response[:room] if limits.truncation == "keep_without_eos" else np.append(response[: room - 1], response[-1:])
