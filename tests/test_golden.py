"""Draws and pixels as they were when the recorded runs were made.

Work on the code must not change them. `python tests/test_golden.py` writes the stored values anew.
Do that only where a change of draws or pixels is meant, and say so: all records made before are
then of other draws.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch

import dlilib
from dlilib.balance import COLUMNS
from dlilib.training.run import Run
from dlilib.training.trainer import Trainer

GOLDEN = Path(__file__).parent / "golden"
SIZE = 64
STEPS = 64  # within a grey level
TOY = Run(data="toy", size=SIZE, weights=None, batch=16, free_share=0.2)
REAL = replace(TOY, data="magnetic_tiles", batch=8)
RUNS = {"toy": TOY, "real": REAL}
TIES = ("lowest", "random")  # as released, and as small batches need it
TINY = Run(data="toy", size=32, weights=None, epochs=4, batch=16, lr=5e-4, free_share=0.2)


def planned(run, tiles):
    """An epoch's batches, flips and injections: name -> array."""
    batches = list(Trainer(run, tiles, torch.device("cpu")).plan_epoch())
    rows, flips, plans = zip(*batches, strict=True)
    found = {"rows": torch.cat(rows), "flips": torch.cat(flips)}
    found["injections"] = torch.tensor([len(plan) for plan in plans])
    for name in COLUMNS:
        found[name] = torch.cat([getattr(plan, name) for plan in plans])
    return {name: value.numpy() for name, value in found.items()}


def pixels(run, tiles):
    """An epoch's first two batches, after injection: images in 64ths of a grey level, masks."""
    trainer = Trainer(run, tiles, torch.device("cpu"))
    pairs = [trainer.prepare(*batch) for batch in list(trainer.plan_epoch())[:2]]
    images, masks = (torch.cat(part) for part in zip(*pairs, strict=True))
    return {
        "images": (images * 255 * STEPS).round().to(torch.int16).numpy(),
        "masks": masks.numpy(),
    }


def tiny_record():
    """What a tiny run gave, without its seconds, and the kind of machine that it was on."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        record = dlilib.fit(TINY, dlilib.toy_tiles(size=TINY.size))
    finally:
        torch.set_num_threads(threads)
    del record["seconds"]
    kind = {
        "torch": torch.__version__,
        "pillow": PIL.__version__,
        **getattr(torch.cpu, "get_capabilities", dict)(),
    }
    return json.loads(json.dumps({"record": record, "kind": kind}))


@pytest.fixture(scope="module", params=RUNS)
def data(request):
    """Name, run and tiles of toy and of real data."""
    run = RUNS[request.param]
    if request.param == "toy":
        return request.param, run, dlilib.toy_tiles(size=SIZE)
    return (
        request.param,
        run,
        dlilib.magnetic_tiles(request.getfixturevalue("magnetic_root"), size=SIZE),
    )


@pytest.mark.parametrize("ties", TIES)
def test_an_epoch_is_planned_as_before(data, ties):
    name, run, tiles = data
    found = planned(replace(run, ties=ties), tiles)
    with np.load(GOLDEN / f"plan_{name}_{ties}.npz") as stored:
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


@pytest.mark.slow
def test_a_tiny_run_gives_the_record_that_it_gave():
    """Other kinds of machine, whose convolutions round differently, move its IoU by up to 0.002."""
    found, stored = tiny_record(), json.loads((GOLDEN / "tiny_record.json").read_text())
    for name in ("id", "run", "data", "val_images", "val_tiles"):
        assert found["record"][name] == stored["record"][name]
    for moment in ("best", "last"):
        assert found["record"][moment]["iou"] == pytest.approx(
            stored["record"][moment]["iou"], abs=0.02
        )
    if found["kind"] == stored["kind"]:
        assert found["record"] == stored["record"]


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name, run in RUNS.items():
        tiles = dlilib.toy_tiles(size=SIZE) if name == "toy" else dlilib.magnetic_tiles(size=SIZE)
        for ties in TIES:
            np.savez_compressed(
                GOLDEN / f"plan_{name}_{ties}.npz", **planned(replace(run, ties=ties), tiles)
            )
        np.savez_compressed(GOLDEN / f"pixels_{name}.npz", **pixels(run, tiles))
    (GOLDEN / "tiny_record.json").write_text(json.dumps(tiny_record(), indent=1) + "\n")
