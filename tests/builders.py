"""What several test files make: small runs, records, image files, and what is kept of a sweep."""

import io
import json
import subprocess
import sys
import time
import traceback
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dlilib
from dlilib.data.files import WriteError
from dlilib.study import presets
from dlilib.training.run import Run
from dlilib.training.store import read_record

PACKAGE = Path(dlilib.__file__).parent
PATIENCE = 300  # seconds: a process of the lowest priority waits for a busy machine
TINY = Run(
    data="toy", size=16, weights=None, epochs=1, batch=16, free_share=0.05, method="baseline"
)
# Seven runs a seed, of some seconds each.
TINY_PRESET = presets.Preset(
    "tiny",
    replace(TINY, epochs=3, method=Run.method),
    presets.SMOKE_STAGES,
    encoders=("resnet18",),
    seeds=(0, 1, 2),
    fractions=(1.0,),
    fraction_encoder="resnet18",
    shots=(),
)


def few_of_each_class(tiles, defective=8, free=32):
    """The first images of each class of a data set, as a data set."""
    counts = [free, *[defective] * tiles.num_classes]
    rows = torch.cat(
        [(tiles.labels == label).nonzero()[:count, 0] for label, count in enumerate(counts)]
    )
    return tiles.subset(rows)


def encoded(pixels, kind="PNG", **options):
    """The bytes of an image file; pixels: an array or a Pillow image."""
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def record(run, images, tiles=(1, 1, 2, 2), classes=None):
    """A record with these counts (V, 3); by class: all in the first unless given."""
    counts = np.array(images).tolist()
    per_class = classes or [np.sum(images, axis=0).tolist(), *[[0, 0, 0]] * 4]
    iou = float(np.sum(images, axis=0)[0] / np.sum(images))
    moment = {"epoch": 1, "iou": iou, "classes": per_class, "images": counts}
    tp, fp, _ = np.sum(images, axis=0).tolist()
    return {
        "id": run.id,
        "run": asdict(run),
        "machine": {"device": "CPU"},
        "seconds": 60.0,
        "best": moment,
        "data": {"classes": ["Blowhole", "Break", "Crack", "Fray", "Uneven"]},
        "positives": int(np.sum(images, axis=0)[[0, 2]].sum()),
        "history": {"tp": [tp] * run.epochs, "fp": [fp] * run.epochs},
        "val_images": list(range(len(images))),
        "val_tiles": list(tiles[: len(images)]),
        "last": {**moment, "images": counts[::-1]},
    }


def without_seconds(record):
    """A record as it is read from its file, without the time that it took."""
    return json.loads(json.dumps({k: v for k, v in record.items() if k != "seconds"}))


def kept(folder):
    """Id -> record without its seconds; every file in the folder's records must be a whole one."""
    records = [read_record(path) for path in sorted((folder / "records").glob("*.json"))]
    return {record["id"]: without_seconds(record) for record in records}


def start_tiny_sweep(results, *words, **streams):
    """`dli run` on TINY_PRESET in a process of its own."""
    script = Path(__file__).with_name("tiny_sweep.py")
    command = [sys.executable, script, "--results", results, *words]
    return subprocess.Popen(command, text=True, **streams)


def wait_until(condition, process=None, seconds=PATIENCE):
    """Wait until the condition holds, and return its value; the process must not end before."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert process is None or process.poll() is None, "it ended"
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.1)
    return value


def refused(call, message, errors=(ValueError, dlilib.models.WeightsError, WriteError)):
    """The call fails with our own error that matches `message`, raised in our code: its text."""
    with pytest.raises(errors, match=message) as found:
        call()
    raised_in = Path(traceback.extract_tb(found.value.__traceback__)[-1].filename)
    assert PACKAGE in raised_in.parents
    return str(found.value)
