"""Numbers for people."""

import itertools
import math

MINUS = "\N{MINUS SIGN}"


def is_number(value: object) -> bool:
    """Whether it is a number that a float holds."""
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 53)


def figure(value: object, digits: int = 4) -> str:
    """A number with `digits` significant digits and thousands separators; anything else as text."""
    if isinstance(value, bool) or not is_number(value):
        return "none" if value is None else str(value)
    assert isinstance(value, (int, float))
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "∞" if value > 0 else f"{MINUS}∞"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if 1e-3 <= abs(value) < 1e15:
        return f"{value:,.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"
    return exponent(value, digits)


def exponent(value: float, digits: int) -> str:
    """A float as 2.5e−5, with at most `digits` significant digits."""
    mantissa, power = f"{value:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{int(power)}".replace("-", MINUS)


def tick(value: float) -> str:
    """The same, short enough for the tick of an axis: 0.25, 4,000, 40k, 1.5M, 5e−5."""
    size = abs(value)
    if size >= 1e9 or 0 < size < 0.01:
        return exponent(value, 3)
    for limit, suffix in ((1e6, "M"), (1e4, "k")):
        if size >= limit:
            return f"{value / (1e6 if suffix == 'M' else 1e3):.4g}{suffix}"
    return f"{value:,.4g}"


def size(count: int) -> str:
    """Bytes in decimal units."""
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if count >= 10**power:
            return f"{count / 10**power:.3g} {unit}"
    return f"{count} B"


def duration(seconds: float) -> str:
    """Seconds as the two largest units: 2 h 13 min."""
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for (large, length), (small, part) in itertools.pairwise(units):
        if seconds >= length:
            whole, rest = divmod(round(seconds / part), length // part)
            return f"{whole} {large} {rest} {small}" if rest else f"{whole} {large}"
    return f"{seconds:.0f} s"
