"""Words for messages, reports and figures."""

from collections.abc import Iterable


def counted(number: int, what: str) -> str:
    """A number and what there is of it, "1 class", "2 classes" or "2 parts of an annotation"."""
    if number == 1:
        return f"1 {what}"
    things, of, whole = what.partition(" of ")
    ending = "es" if things.endswith("s") else "s"
    things = f"{things[:-1]}ies" if things.endswith("ry") else f"{things}{ending}"
    return f"{number} {things}{of}{whole}"


def duration(seconds: float) -> str:
    """A time, "90 s", "5 min" or "2.5 hours"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} hours"


def listed(names: Iterable[str]) -> str:
    """Names as a list, "a, b and c"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
