"""What every data source becomes: one preference record or one supervised record, with the place it was read from.

Past this point only one polarity exists: `unsafe`, True = unsafe. Adapters convert at their edge.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a dialogue.

    Attributes:
      role: "system", "user" or "assistant".
      content: the turn's text, without markers of the transcript it came from.
    """

    role: str
    content: str


Prompt = tuple[Message, ...]
"""The turns before the response: an optional system message first, a user message last."""


@dataclass(frozen=True, slots=True)
class PairRecord:
    """Two responses to one prompt, and what annotators said about them.

    Attributes:
      prompt: the conversation so far, ending in a user message.
      responses: the two answers, in the order of the file.
      unsafe: one flag per answer, True = unsafe; None where the data has no flag.
      better: index of the more helpful answer, None where nobody said. Null is never 0.
      safer: index of the more harmless answer, None where nobody said.
      source: name of the data set the row came from; metrics are reported per source.
      row: stable id of the row, counted from 0 over everything that was loaded in one call.
      where: "file:line" of the row, for error sentences.
    """

    prompt: Prompt
    responses: tuple[str, str]
    unsafe: tuple[bool | None, bool | None]
    better: int | None
    safer: int | None
    source: str
    row: int
    where: str


@dataclass(frozen=True, slots=True)
class SftRecord:
    """A prompt and the response to imitate. Attributes as in `PairRecord`."""

    prompt: Prompt
    response: str
    source: str
    row: int
    where: str
