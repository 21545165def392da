"""`dli run` on runs that take seconds: python tests/tiny_sweep.py --results FOLDER."""

import sys

from builders import TINY_PRESET

from dlilib import cli
from dlilib.study import presets

presets.PRESETS["tiny"] = TINY_PRESET

if __name__ == "__main__":  # Dask's workers import this file too
    sys.argv[1:] = ["run", "--preset", "tiny", "--device", "cpu", *sys.argv[1:]]
    cli.main()
