"""Checks of single arguments, with one style of error text. Standard library only."""

import operator


def as_int(value, what):
    """`value` as a Python int; `what` names it in the error. Floats and booleans are refused."""
    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):
        raise ValueError(f"{what} must be an int. Received the boolean {value!r}.")
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(
            f"{what} must be an int. Received {value!r} of type {type(value).__name__}."
        ) from None


def whole_number(value, what, least=1):
    """`value` as a Python int of at least `least`; `what` names it in the error."""
    number = as_int(value, what)
    if number < least:
        raise ValueError(f"{what} must be at least {least}. Received {number}.")
    return number
