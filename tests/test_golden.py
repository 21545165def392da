"""Draws and pixels as they were when the recorded runs were made: work on the code must not change them.

`python tests/test_golden.py` writes the stored values anew. Do that only where a change of draws or pixels is meant,
and say so: all records made before are then of other draws.
"""

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import dlilib
from dlilib.run import Run
from dlilib.trainer import Trainer

GOLDEN = Path(__file__).parent / "golden"
SIZE = 64
STEPS = 64  # within a grey level
TOY = Run(data="toy", size=SIZE, weights=None, batch=16, free_share=0.2)
REAL = replace(TOY, data="magnetic_tiles", batch=8)
RUNS = {"toy": TOY, "real": REAL}
TINY = Run(data="toy", size=32, weights=None, epochs=4, batch=16, lr=2e-3, free_share=0.2)


def planned(run, tiles):
    """An epoch's batches, flips and injections: name -> array."""
    batches = list(Trainer(run, tiles, torch.device("cpu")).plan_epoch())
    rows, flips, plans = zip(*batches, strict=True)
    found = {"rows": torch.cat(rows), "flips": torch.cat(flips)}
    found["injections"] = torch.tensor([len(plan) for plan in plans])
    for field in fields(plans[0]):
        found[field.name] = torch.cat([getattr(plan, field.name) for plan in plans])
    return {name: value.numpy() for name, value in found.items()}


def pixels(run, tiles):
    """Images in 64ths of a grey level and masks of an epoch's first two batches, after injection."""
    trainer = Trainer(run, tiles, torch.device("cpu"))
    pairs = [trainer.prepare(*batch) for batch in list(trainer.plan_epoch())[:2]]
    images, masks = (torch.cat(part) for part in zip(*pairs, strict=True))
    return {"images": (images * 255 * STEPS).round().to(torch.int16).numpy(), "masks": masks.numpy()}


def tiny_record():
    """What a tiny run is and gave, without its seconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        record = dlilib.fit(TINY, dlilib.toy_tiles(size=TINY.size))
    finally:
        torch.set_num_threads(threads)
    return json.loads(json.dumps({name: value for name, value in record.items() if name != "seconds"}))


@pytest.fixture(params=RUNS)
def data(request):
    """Name, run and tiles of toy and of real data."""
    run = RUNS[request.param]
    if request.param == "toy":
        return request.param, run, dlilib.toy_tiles(size=SIZE)
    return request.param, run, dlilib.magnetic_tiles(request.getfixturevalue("magnetic_root"), size=SIZE)


def test_an_epoch_is_planned_as_before(data):
    name, run, tiles = data
    found = planned(run, tiles)
    with np.load(GOLDEN / f"plan_{name}.npz") as stored:
        assert set(stored) == set(found)
        for key in stored:
            if key == "maps":  # sines and cosines, which processors round differently
                np.testing.assert_allclose(found[key], stored[key], atol=1e-6)
            else:
                np.testing.assert_array_equal(found[key], stored[key])


def test_pixels_are_injected_as_before(data):
    name, run, tiles = data
    found = pixels(run, tiles)
    with np.load(GOLDEN / f"pixels_{name}.npz") as stored:
        np.testing.assert_array_equal(found["masks"], stored["masks"])
        assert np.abs(found["images"].astype(int) - stored["images"]).max() <= 1


def test_a_tiny_run_gives_the_record_that_it_gave():
    found, stored = tiny_record(), json.loads((GOLDEN / "tiny_record.json").read_text())
    assert found["run"] == stored["run"]
    assert found["val_images"] == stored["val_images"]
    for moment in ("best", "last"):
        assert found[moment]["iou"] == pytest.approx(stored[moment]["iou"], abs=0.02)
    if found["machine"] == stored["machine"]:
        assert found == stored


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name, run in RUNS.items():
        tiles = dlilib.toy_tiles(size=SIZE) if name == "toy" else dlilib.magnetic_tiles(size=SIZE)
        np.savez_compressed(GOLDEN / f"plan_{name}.npz", **planned(run, tiles))
        np.savez_compressed(GOLDEN / f"pixels_{name}.npz", **pixels(run, tiles))
    (GOLDEN / "tiny_record.json").write_text(json.dumps(tiny_record(), indent=1) + "\n")
