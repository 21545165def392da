"""A run is a value: its id, and what it refuses."""

from dataclasses import replace

import pytest
from builders import refused
from hypothesis import given, settings
from hypothesis import strategies as st

from dlilib.training.run import CHOICES, Run


def test_id_tells_runs_apart_and_ignores_spelling():
    assert Run(fraction=1).id == Run(fraction=1.0).id == Run().id
    ids = {
        replace(Run(), **{name: value}).id for name, options in CHOICES.items() for value in options
    }
    assert len(ids) == 1 + sum(len(options) - 1 for options in CHOICES.values())


def test_id_is_fixed_for_all_time():
    """Records are found by it: if this fails, every committed record is lost."""
    assert Run().id == "magnetic_tiles-resnet18-dli-image-seed0-44136fa355"
    assert (
        Run(method="wce", seed=3, fraction=0.25).id
        == "magnetic_tiles-resnet18-wce-image-seed3-c40e973622"
    )


FIELDS = {
    "method": "cutmix",
    "encoder": "vgg",
    "split": "random",
    "precision": "int8",
    "weights": "coco",
    "label": "wide",
    "region": "circle",
    "guidance": "none",
    "until": "never",
    "losses": "mine",
    "resize": "area",
    "data": "../x",
    "epochs": 0,
    "batch": 1,
    "size": 20,
    "lr": float("nan"),
    "fraction": -0.5,
    "p_poisson": 1.01,
    "seed": -1,
    "threshold": 255,
    "free_share": float("inf"),
    "shots": -1,
    "nbr": -1.0,
    "similarity": 1,
}


@pytest.mark.parametrize("name", FIELDS)
def test_impossible_value_is_refused_with_its_name(name):
    message = rf"Run\.{name}.*{FIELDS[name]}".replace("../x", "")
    refused(lambda: Run(**{name: FIELDS[name]}), message)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("fraction", 0),
        ("fraction", 1.5),
        ("p_poisson", -0.1),
        ("free_share", 2),
        ("size", 100),
        ("lr", 0),
        ("shots", 1),
        ("nbr", float("nan")),
    ],
)
def test_value_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=f"Run.{field}"):
        Run(**{field: value})


def test_run_says_what_its_fields_need():
    with pytest.raises(ValueError, match=r"Run\.similarity .* needs method"):
        Run(method="baseline", similarity=True)
    with pytest.raises(ValueError, match=r"Run\.shots = 5 needs split"):
        Run(shots=5, split="tile", fraction=0.5)
    with pytest.raises(ValueError, match=r"Run\.size is out of range: 40"):
        Run(encoder="resnet34", size=40)


@pytest.mark.parametrize(
    "fields",
    [
        {"epochs": 1.5},
        {"seed": True},
        {"free_in_val": 1},
        {"data": "a/../b"},
        {"epochs": None},
        {"lr": "high"},
    ],
)
def test_run_of_wrong_types_is_refused_by_name(fields):
    with pytest.raises(ValueError, match=f"Run.{next(iter(fields))} must be"):
        Run(**fields)


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), VALUES))
@settings(max_examples=3 * settings.default.max_examples)
def test_whatever_a_run_is_given_it_is_a_run_or_our_error(fields):
    try:
        run = Run(**fields)
    except ValueError as error:
        assert "Run." in str(error)
    else:
        assert Run(**run.changed) == run


def test_a_run_for_tiles_fits_them(toy, few_tiles):
    run = Run.for_tiles(few_tiles, epochs=2, method="wce")
    assert run == Run(data="toy", size=16, epochs=2, method="wce")
    assert Run.for_tiles(replace(toy, source="mine", resize="pad")).resize == "pad"
    refused(lambda: Run.for_tiles(few_tiles, epochs=0), "Run.epochs is out of range: 0")


def test_what_is_no_data_set_has_no_run(few_tiles):
    refused(lambda: Run.for_tiles(None), "tiles must be a TileSet, got NoneType")
    refused(lambda: Run(size=33), "Run.size is out of range: 33, it must be divisible by 8")
