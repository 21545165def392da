"""The page on the record's format has a row for each key of a record, and no other row."""

import json
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from dlilib.training.run import Run
from dlilib.training.trainer import fit

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "reference" / "record.md").read_text()
ROWS = dict(re.findall(r"^\| `([\w.-]+)` \|.*\| (.+) \|$", PAGE, re.MULTILINE))
OPTIONAL = {key for key, text in ROWS.items() if text.startswith("optional")}
FEW_SHOT = {key for key in OPTIONAL if "few-shot" in ROWS[key]}
NAMED_BY_DATA = {"best.examples"}  # objects whose own keys are names of images
STORED = sorted((ROOT / "tests" / "smoke" / "records").glob("*.json"))


def keys(value, prefix=""):
    """Dotted paths of all values that are no objects themselves."""
    if not isinstance(value, dict) or prefix in NAMED_BY_DATA:
        return {prefix}
    start = f"{prefix}." if prefix else ""
    return {path for name, inner in value.items() for path in keys(inner, f"{start}{name}")}


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_stored_record_has_the_keys_of_the_page(path):
    record = json.loads(path.read_text())
    expected = ROWS.keys() - OPTIONAL
    if record["run"]["shots"]:
        expected |= FEW_SHOT
    assert keys(record) == expected


def test_stored_records_are_of_both_kinds():
    shots = {json.loads(path.read_text())["run"]["shots"] > 0 for path in STORED}
    assert shots == {False, True} and FEW_SHOT


def test_a_record_of_this_version_and_of_other_data_has_them_too(few_tiles):
    """Such a record also tells the normalisation that was measured."""
    own = replace(few_tiles, source="own")
    run = Run.for_tiles(own, weights=None, epochs=1, batch=16)
    assert keys(fit(run, own)) == ROWS.keys() - FEW_SHOT


def test_the_page_lists_the_fields_of_run_in_their_order():
    told = [key.removeprefix("run.") for key in ROWS if key.startswith("run.")]
    assert told == [field.name for field in fields(Run)]
