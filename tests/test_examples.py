"""The examples in docstrings, of the modules whose examples need no files, give what they say."""

import doctest
import importlib

import numpy as np
import pytest
import torch

import dlilib

SELF_CONTAINED = (
    "analysis.stats",
    "balance",
    "blend",
    "data.splits",
    "data.toy",
    "donors",
    "inject",
    "metrics",
    "models",
    "patches",
    "study.experiments",
    "tiles",
    "training.run",
)


@pytest.mark.parametrize("name", SELF_CONTAINED)
def test_examples(name):
    module = importlib.import_module(f"dlilib.{name}")
    public = {public: getattr(dlilib, public) for public in dlilib.__all__}
    scope = {**public, "dlilib": dlilib, "np": np, "torch": torch, **vars(module)}
    result = doctest.testmod(module, globs=scope)
    assert result.attempted > 0 and result.failed == 0
