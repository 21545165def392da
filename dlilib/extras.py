"""Packages that only some features need, imported when they are used."""

from importlib import import_module
from types import ModuleType


class MissingExtraError(ImportError):
    """A package is not installed; the message says how to install it."""


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, which `pip install 'dlilib[extra]'` installs.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        raise MissingExtraError(f"{missing} is missing: pip install 'dlilib[{extra}]'") from None
