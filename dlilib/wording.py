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


def listed(names: Iterable[str]) -> str:
    """Names as a list, "a, b and c"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
