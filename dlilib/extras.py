"""Packages that only some features need, imported when they are used."""

from importlib import import_module
from types import ModuleType


class MissingExtraError(ImportError):
    """A package is not installed; the message says how to install it."""


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, which `extra`, one of pyproject.toml's, installs.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(how_to_install(error.name or module, extra)) from None


def how_to_install(module: str, extra: str) -> str:
    """Say that a module is missing, and which extra installs it."""
    return f'{module} is missing: in the project\'s folder, pip install -e ".[{extra}]"'
