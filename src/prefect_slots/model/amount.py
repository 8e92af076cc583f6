"""Amounts: integers in a named unit, parsed from people's text and printed back; expected durations, rounded.

Memory is MiB, as `nvidia-smi` prints it. Requests are rounded up and capacities are rounded down, so a rounding never
admits more than fits. Nothing here knows which resources exist.
"""

import math
import re
from fractions import Fraction

MIB = "MiB"
SEATS = "seats"
CORES = "cores"

# By their upper-case names: people write `8gb`, and no unit differs from another by case alone.
_BYTES_PER: dict[str, int] = {
    "B": 1,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")
_BYTES_PER_MIB = 2**20

# Prefect's PostgreSQL column for the slots of a limit is a signed 32-bit integer.
MAX_AMOUNT = 2**31 - 1
# The preferred numbers R10 of ISO 3: ten a decade, so that no duration is stretched by more than 28 %.
_PREFERRED = (1.0, 1.25, 1.6, 2.0, 2.5, 3.15, 4.0, 5.0, 6.3, 8.0, 10.0)


class Exclusive(int):
    """An exclusive capacity: the first holder takes all of it."""


def _exact_mib(value: object) -> Fraction:
    """Return `value` in MiB without rounding: a number is GiB, a string carries its unit.

    Raises:
        ValueError: for anything that is not a finite amount; the text says why.
    """
    # `True` is an `int`; as an amount it is a slip for another argument.
    if isinstance(value, bool):
        raise ValueError("True and False are not amounts of memory; write a number of GiB or a string such as '8GiB'")
    if isinstance(value, (int, float)):
        # An integer beyond the range of floats is finite, and `isfinite` would raise OverflowError for it.
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("not a finite amount of memory")
        return Fraction(value) * 1024
    if not isinstance(value, str):
        raise ValueError(f"{type(value).__name__} is not an amount of memory; write a number of GiB or '8GiB'")
    match = _SIZE.fullmatch(value)
    if match is None or match[2].upper() not in _BYTES_PER:
        raise ValueError("not an amount of memory; write a number of GiB or a string such as '8GiB', '512MiB' or '8GB'")
    return Fraction(match[1]) * _BYTES_PER[match[2].upper()] / _BYTES_PER_MIB


def _positive_mib(value: object) -> Fraction:
    mib = _exact_mib(value)
    if mib <= 0:
        raise ValueError("an amount of memory must be above zero")
    return mib


def _within_range(amount: int) -> int:
    if amount > MAX_AMOUNT:
        raise ValueError(f"more than a limit can count ({MAX_AMOUNT})")
    return amount


def memory_asked(value: object) -> int:
    """Return the MiB that a request for `value` reserves, rounded up.

    A number is GiB (`8`, `0.5`); a string carries its unit (`"8GiB"`, `"512 MiB"`, `"8GB"` is decimal).

    Raises:
        ValueError: if `value` is no finite amount above zero.
    """
    return _within_range(math.ceil(_positive_mib(value)))


def memory_kept(value: object) -> int:
    """Return the MiB that a headroom of `value` keeps free, rounded up; `0` and `"0GiB"` keep nothing.

    Raises:
        ValueError: if `value` is no finite amount of at least zero.
    """
    mib = _exact_mib(value)
    if mib < 0:
        raise ValueError("an amount of memory to keep free cannot be negative")
    return _within_range(math.ceil(mib))


def memory_available(value: object) -> int:
    """Return the whole MiB in a capacity of `value`, rounded down; the same spellings as `memory_asked`.

    Raises:
        ValueError: if `value` is no finite amount of at least one MiB.
    """
    mib = math.floor(_positive_mib(value))
    if mib == 0:
        raise ValueError("less than one MiB")
    return _within_range(mib)


def bytes_available(count: int) -> int:
    """Return the whole MiB in `count` bytes, rounded down."""
    return count // _BYTES_PER_MIB


def bytes_used(count: int) -> int:
    """Return the MiB that `count` bytes take, rounded up."""
    return -(-count // _BYTES_PER_MIB)


def duration_asked(seconds: float) -> float:
    """Return the next preferred number of seconds that is not below `seconds`, which is above zero.

    Tasks whose expected durations differ little then stand in one queue: a decision costs more the more kinds of
    tickets wait, and a program that gives another number for each item would make each a kind of its own.
    """
    decade = 10.0 ** math.floor(math.log10(seconds))
    return next((step * decade for step in _PREFERRED if seconds <= step * decade), 10 * decade)


def count_asked(value: object, unit: str) -> int:
    """Return `value` as a whole number of `unit` above zero.

    Raises:
        ValueError: for anything but an `int` above zero; half a seat does not exist, and `True` is a slip.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"a whole number of {unit} is needed, not {type(value).__name__}")
    if value <= 0:
        raise ValueError(f"the number of {unit} must be above zero")
    return _within_range(value)


def format_amount(amount: int, unit: str) -> str:
    """Print an amount so that `memory_asked` reads the same number back.

    Returns:
        `"8GiB"` where MiB divide evenly into GiB, else `"8191MiB"`; `"2 seats"` for other units.
    """
    # Rounded to GiB the text would not be read back as the same number.
    if unit == MIB:
        return f"{amount // 1024}GiB" if amount and amount % 1024 == 0 else f"{amount}MiB"
    return f"{amount} {unit}"
