"""The row formats by name, and which of them a row is in.

Preference formats: `pku`, `pairs`, `chat`, `hh`. Supervised formats: `sft`, `messages`. A preference row can be read as two supervised
examples, a supervised row never as a preference.
"""

from collections.abc import Callable

from safedpo_jax import checks
from safedpo_jax.data import chat, hh, labelled, pairs, pku, supervised
from safedpo_jax.data.dialogue import MARKER
from safedpo_jax.data.fields import Row
from safedpo_jax.data.records import PairRecord, SftRecord

PAIR_FORMATS: dict[str, Callable[[Row], PairRecord]] = {
    "pku": pku.parse,
    "pairs": pairs.parse,
    "chat": chat.parse,
    "hh": hh.parse,
}
SFT_FORMATS: dict[str, Callable[[Row], SftRecord]] = {"sft": supervised.parse, "messages": supervised.parse_messages}
SHAPES = {
    "pku": ", ".join(pku.FIELDS),
    "pairs": "prompt, chosen, rejected (strings)",
    "chat": "chosen, rejected (lists of messages) with or without prompt",
    "hh": "chosen, rejected (transcripts)",
    "sft": "prompt, response",
    "messages": "messages",
}


def detect(row: Row) -> str:
    """Name of the format that the row's fields tell.

    Raises:
      UserError: no format has these fields, or an answer stands without a prompt.
    """
    names = row.fields.keys()
    if names & pku.TELLING:
        return "pku"
    if names & {"chosen", "rejected"}:
        lists = any(isinstance(row.fields.get(name), list | dict) for name in ("prompt", "chosen", "rejected"))
        return "chat" if lists else "pairs" if "prompt" in names else _without_prompt(row)
    if "messages" in names:
        return "messages"
    if "response" in names:
        return "sft"
    known = (*pku.FIELDS, "chosen", "rejected", "response", "messages")
    hints = "".join(f" ('{name}'{checks.nearest(name, known)})" for name in names if name not in known and checks.nearest(name, known))
    shapes = "; ".join(f"{name}: {shape}" for name, shape in SHAPES.items())
    raise row.error(f"cannot tell the format from the fields {', '.join(names) or 'none'}{hints}; known formats are {shapes}")


def _without_prompt(row: Row) -> str:
    """`hh` if one of the answers is a transcript, which holds its prompt, or no text at all, which `hh` refuses by its name."""
    answers = [row.fields[name] for name in ("chosen", "rejected") if name in row.fields]
    if not any(isinstance(answer, str) for answer in answers) or any(MARKER.match(str(answer)) for answer in answers):
        return "hh"
    others = [name for name in row.fields if name not in ("chosen", "rejected")]
    raise row.error(
        f"field 'prompt' is missing{checks.nearest('prompt', others)} (fields of this row: {', '.join(row.fields)}); without it chosen and "
        "rejected would have to be HH transcripts that start with '\\n\\nHuman:'"
    )


def parse_pair(format_name: str, row: Row) -> PairRecord:
    """The preference record of `row`. Raises UserError if the format holds no preferences."""
    if format_name in SFT_FORMATS:
        raise row.error(
            f"the row is supervised ({SHAPES[format_name]}; fields found: {', '.join(row.fields)}), but preference training needs two "
            f"answers and a label; give pairs, or train with the sft objective"
        )
    return PAIR_FORMATS[format_name](row)


def parse_sft(format_name: str, row: Row) -> list[SftRecord]:
    """The supervised records of `row`: one, or both answers of a preference row (ids 2 * row and 2 * row + 1)."""
    if format_name in SFT_FORMATS:
        return [SFT_FORMATS[format_name](row)]
    return supervised.from_pair(PAIR_FORMATS[format_name](row))


def parse_labelled(format_name: str, row: Row) -> list[SftRecord]:
    """The answers of `row` with their safety flags: one, or both of a preference row. Raises UserError if the format has none."""
    if format_name == "messages":
        raise row.error("the row is in the format 'messages', which has no safety flag; give prompt, response and is_safe")
    return [labelled.parse(row)] if format_name == "sft" else labelled.from_pair(PAIR_FORMATS[format_name](row))


def check_name(format_name: str) -> None:
    """Raises UsageError unless the format is known."""
    checks.one_of("format", format_name, SHAPES)
