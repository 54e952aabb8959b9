"""Numbers for people."""

import itertools
import math
from collections.abc import Sequence

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


def ticks(values: Sequence[float]) -> list[str]:
    """The evenly spaced ticks of an axis, all in one form and with as many digits as tell them apart: 0, 0.25, 0.50, 0.75."""
    if len(values) < 2:
        return [tick(value) for value in values]
    step, most = float(f"{values[1] - values[0]:.2e}"), max(map(abs, values))
    last = math.floor(math.log10(step))
    last -= not math.isclose(step, round(step / 10.0**last) * 10.0**last)  # of 2.5 the second digit, too
    zero = step / 2
    if not 0.01 <= most < 1e9:
        digits = [math.floor(math.log10(max(abs(value), zero))) - last + 1 for value in values]
        return [exponent(v, max(d, 1)) if abs(v) > zero else "0" for v, d in zip(values, digits, strict=True)]
    power, suffix = (6, "M") if most >= 1e6 else (3, "k") if most >= 1e4 else (0, "")
    shown = (f"{value / 10**power:,.{max(0, power - last)}f}{suffix}" for value in values)
    return [text.replace("-", MINUS) if abs(v) > zero else "0" for v, text in zip(values, shown, strict=True)]


def size(count: int) -> str:
    """Bytes in decimal units."""
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if count >= 10**power:
            return f"{count / 10**power:.3g} {unit}"
    return f"{count} B"


def gib(count: float) -> str:
    """Bytes of a card's memory in the unit in which vendors count it, mostly under the name GB: 96 GiB, 20.3 GiB."""
    return f"{count / 2**30:.1f}".removesuffix(".0") + " GiB"


def duration(seconds: float) -> str:
    """Seconds as the two largest units: 2 h 13 min."""
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for (large, length), (small, part) in itertools.pairwise(units):
        if seconds >= length:
            whole, rest = divmod(round(seconds / part), length // part)
            return f"{whole} {large} {rest} {small}" if rest else f"{whole} {large}"
    return f"{seconds:.0f} s"
