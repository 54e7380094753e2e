"""One raw row and typed access to its fields, so that every complaint names the file, the line, the field and the repair."""

import json
from dataclasses import dataclass
from typing import Any

from safedpo_jax import checks

LARGEST = (2 - 2**-23) * 2.0**127
"""Largest float32: scores are stored in that type."""
BITS = 31
"""Bits of a mask that fit an int32 without its sign."""


@dataclass(frozen=True, slots=True)
class Row:
    """A raw row: its fields, where it was read, the name of its source, and its running number (stable example id)."""

    fields: dict[str, Any]
    where: str
    source: str
    number: int

    def error(self, sentence: str) -> checks.UserError:
        """The error that says `sentence` about this row."""
        return checks.UserError(f"{self.where}: {sentence}")

    def value(self, name: str) -> Any:
        """The field's value. A missing field is an error that names the nearest one."""
        if name not in self.fields:
            found = ", ".join(self.fields) or "none"
            raise self.error(f"field '{name}' is missing{checks.nearest(name, self.fields)} (fields of this row: {found})")
        return self.fields[name]

    def text(self, name: str) -> str:
        """A string that can be encoded as UTF-8."""
        return self.checked_text(name, self.value(name))

    def checked_text(self, name: str, value: Any) -> str:
        """`value`, which is `name` in error sentences, if it is a string that can be encoded as UTF-8."""
        if not isinstance(value, str):
            raise self.error(f"field '{name}' must be a string, found {show(value)}; fix or remove the row")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise self.error(
                f"field '{name}' holds half of a surrogate pair ({value[error.start]!r} at character {error.start}), "
                "which no tokenizer can encode; repair the text or remove the row"
            ) from None
        return value

    def flag(self, name: str) -> bool:
        """A real boolean; "true", 0 and 1 are refused because their polarity and meaning would be a guess."""
        value = self.value(name)
        if not isinstance(value, bool):
            raise self.error(f"field '{name}' must be true or false, found {show(value)}; write a JSON boolean (no quotes, no 0/1)")
        return value

    def response_id(self, name: str) -> int | None:
        """0, 1 or None (null: nobody said; never read as 0)."""
        value = self.value(name)
        if value is None or (type(value) is int and value in (0, 1)):
            return value
        raise self.error(f"field '{name}' must be 0, 1 or null, found {show(value)}; null means that nobody labelled the pair")

    def real(self, name: str) -> float:
        """A finite number that float32 can hold; true, "1", NaN and Infinity are refused."""
        value = self.value(name)
        if type(value) not in (int, float) or not abs(value) <= LARGEST:
            raise self.error(f"field '{name}' must be a finite number, found {show(value)}; repair it, or remove the field if nobody knows")
        return float(value)

    def bit_mask(self, name: str) -> int:
        """A set of categories as a bit mask below 2**31: given as one, or as a list of the numbers of the bits."""
        value = self.value(name)
        bits = value if isinstance(value, list) else []
        if all(type(bit) is int and 0 <= bit < BITS for bit in bits):
            mask = sum(1 << bit for bit in set(bits)) if isinstance(value, list) else value
            if type(mask) is int and 0 <= mask < 1 << BITS:
                return mask
        raise self.error(
            f"field '{name}' must be a bit mask, an integer from 0 to 2**{BITS} - 1, or a list of bits from 0 to {BITS - 1}, "
            f"found {show(value)}"
        )

    def json(self) -> str:
        """The whole row as one line of JSON; a value that JSON or UTF-8 cannot hold (a Parquet file may hold any) is an error."""
        for name, value in self.fields.items():
            try:
                json.dumps({name: value}, ensure_ascii=False).encode()
            except (TypeError, ValueError):
                raise self.error(f"field '{name}' cannot be written as JSON, found {show(value)}; remove or convert it") from None
        return json.dumps(self.fields, ensure_ascii=False)

    def given(self, name: str) -> bool:
        """Whether the row has the field and it is not null."""
        return self.fields.get(name) is not None

    def source_name(self) -> str:
        """The row's own `source` if it has one, else the name of the file or data set."""
        value = self.fields.get("source")
        return self.source if value is None else self.checked_text("source", value)


def show(value: Any) -> str:
    """`value` as it stands in the file, with its type, cut to a length fit for a sentence."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    text = text.encode(errors="backslashreplace").decode()  # half of a surrogate pair cannot be printed
    kinds = {bool: "a boolean", int: "an integer", float: "a number", str: "a string", list: "a list", dict: "an object"}
    kind = "null" if value is None else kinds.get(type(value), type(value).__name__)
    return kind if value is None else f"{kind}: {text if len(text) <= 60 else text[:57] + '...'}"
