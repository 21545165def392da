"""The command `dli`, where what it needs is installed."""

import sys

from dlilib.extras import MissingExtraError, require


def main() -> None:
    """Run the command."""
    try:
        cli = require("dlilib.cli", "study")
    except MissingExtraError as error:
        sys.exit(f"dli: {error}")
    cli.main()


if __name__ == "__main__":
    main()
