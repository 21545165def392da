"""The examples in docstrings give what they say, in modules whose examples are given no file."""

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
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the files that they write
    module = importlib.import_module(f"dlilib.{name}")
    public = {public: getattr(dlilib, public) for public in dlilib.__all__}
    scope = {**public, "dlilib": dlilib, "np": np, "torch": torch, **vars(module)}
    result = doctest.testmod(module, globs=scope)
    assert result.attempted > 0 and result.failed == 0
