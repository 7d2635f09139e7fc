"""Checks of single arguments, with one style of error text, and what differs between two dicts.

Standard library only.
"""

import math
import numbers
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


def positive_number(value, what):
    """`value` as a finite float above 0; `what` names it in the error. Booleans are refused."""
    if not _is_finite(value) or value <= 0.0:
        raise ValueError(f"{what} must be a finite number above 0. Received {value!r}.")
    return float(value)


def checked_number(value, what, least=-math.inf, above=-math.inf, most=math.inf):
    """`value` as a finite float in a range; `what` names it in the error. Booleans are refused."""
    if not _is_finite(value) or not (least <= value <= most and value > above):
        bounds = {"at least": least, "above": above, "at most": most}
        wanted = " and ".join(
            f"{words} {one:g}" for words, one in bounds.items() if math.isfinite(one)
        )
        raise ValueError(f"{what} must be a finite number, {wanted}. Received {value!r}.")
    return float(value)


def _is_finite(value):
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return real and math.isfinite(value)


def differences(there: dict, here: dict, absent=None) -> list[tuple]:
    """(dotted name, value there, value here) of each value that differs in two nested dicts.

    Args:
        there, here: dicts, nested to any depth.
        absent: the value of a name that a dict lacks. Default None.

    >>> differences({"plan": {"k": 10, "dims": [8]}}, {"plan": {"k": 5, "dims": [8]}})
    [('plan.k', 10, 5)]
    """
    found = []
    for name in sorted({*there, *here}):
        one, other = there.get(name, absent), here.get(name, absent)
        if isinstance(one, dict) and isinstance(other, dict):
            inner = differences(one, other, absent)
            found += [(f"{name}.{below}", *values) for below, *values in inner]
        elif one != other:
            found.append((name, one, other))
    return found
