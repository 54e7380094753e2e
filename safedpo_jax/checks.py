"""Guards whose sentences name the values, and the exception that means "the user can fix this"."""

import difflib
from collections.abc import Iterable
from typing import Any


class UserError(ValueError):
    """A mistake the user can repair. Its message is a sentence: what was expected, what came, what to do. Exit status 1."""


class UsageError(UserError):
    """A wrong flag, config key or combination of options. Exit status 2."""


def same_shape(function: str, **arrays: Any) -> None:
    """Raises ValueError unless all arrays have one shape: broadcasting log-probs would train on noise without a word."""
    shapes = {name: tuple(array.shape) for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        listing = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"{function} needs arrays of one shape and would otherwise broadcast; got {listing}.")


def floating(function: str, **arrays: Any) -> None:
    """Raises TypeError if an array is not floating point (log-probs are never integers; an integer array is a swapped argument)."""
    for name, array in arrays.items():
        if array.dtype.kind not in "fV":  # V: bfloat16 and other ml_dtypes floats under numpy
            raise TypeError(f"{function} needs floating-point {name}, got {array.dtype}; were token ids passed for log-probs?")


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or an empty string when nothing is close."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{match[0]}'?" if match else ""


def one_of(what: str, value: Any, choices: Iterable[Any], error: type[ValueError] = UsageError) -> None:
    """Raises `error` unless value is one of choices, naming all of them and the nearest."""
    choices = list(choices)
    if value not in choices:
        hint = nearest(value, [str(choice) for choice in choices]) if isinstance(value, str) else ""
        raise error(f"{what} must be one of {', '.join(map(repr, choices))}, got {value!r}{hint}")
