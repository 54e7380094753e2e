"""Prompts from text: a plain request, or a transcript of turns marked `Human:` and `Assistant:`.

Strings are messages as they stand, except for one case that is unambiguous: a prompt string that starts with `Human:`, in which
blank-line separated `Human:` and `Assistant:` turns alternate strictly, none is empty, there are at least three, and the last is
`Human:`. Such a string becomes one message per turn. Anything else (a quoted dialogue inside a request, two turns of one speaker in a
row, a marker in the middle of a line) stays one user message, word for word.
"""

import re

from safedpo_jax.data.fields import Row
from safedpo_jax.data.records import Message, Prompt

ROLES = {"Human": "user", "Assistant": "assistant"}
MARKER = re.compile(r"(?:\A\n*|\n\n)(Human|Assistant):")


def split_turns(text: str) -> list[Message]:
    """The turns of a transcript, in order, with surrounding white space removed; text before the first marker is not returned.

    Two turns of one speaker in a row are kept apart.
    """
    markers = list(MARKER.finditer(text))
    ends = [marker.start() for marker in markers[1:]] + [len(text)]
    return [
        Message(ROLES[marker.group(1)], text[marker.end() : end].strip())
        for marker, end in zip(markers, ends, strict=True)
    ]  # fmt: skip


def merge_turns(turns: list[Message]) -> Prompt:
    """Joins neighbouring turns of one speaker with a blank line: chat templates need speakers to alternate."""
    merged: list[Message] = []
    for turn in turns:
        if merged and merged[-1].role == turn.role:
            merged[-1] = Message(turn.role, f"{merged[-1].content}\n\n{turn.content}".strip())
        else:
            merged.append(turn)
    return tuple(merged)


def prompt_from_text(row: Row, name: str = "prompt") -> Prompt:
    """The string field `name` as messages, see the module docstring.

    Raises:
      UserError: the field is missing, no string, or blank.
    """
    text = row.text(name)
    if not text.strip():
        raise row.error(f"field '{name}' is empty; a response without a prompt cannot be trained on, remove the row")
    turns = split_turns(text) if MARKER.match(text) else []
    alternating = all(turn.role == ("user", "assistant")[index % 2] for index, turn in enumerate(turns))
    if len(turns) >= 3 and len(turns) % 2 == 1 and alternating and all(turn.content for turn in turns):
        return tuple(turns)
    return (Message("user", text),)
