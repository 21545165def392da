"""A sweep that is killed again and again ends as if nothing had happened."""

import functools
import json
import random
import signal
import subprocess
import sys
import time

import pytest

from dlilib.training.store import read_record

SWEEP = """
import sys
from dlilib import cli
from dlilib.study import presets
from dlilib.training.run import Run
base = Run(data="toy", size=16, weights=None, epochs=4, batch=16, free_share=0.05)
few = {"encoders": ("resnet18",), "fraction_encoder": "resnet18", "fractions": (1.0,), "shots": ()}
presets.PRESETS["tiny"] = presets.Preset("tiny", base, presets.SMOKE_STAGES, seeds=(0,), **few)
sys.argv[1:] = ["run", "--preset", "tiny", "--match", "p_poisson=0.5", "--device", "cpu", "--results", sys.argv[1]]
cli.main()
"""


def start(folder, errors=subprocess.DEVNULL):
    heard = functools.partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # a shell's background job ignores Ctrl-C
    return subprocess.Popen(
        [sys.executable, "-c", SWEEP, str(folder)], stderr=errors, text=True, preexec_fn=heard
    )


def kept(folder):
    """id -> record without its seconds; every file there must be a whole record."""
    records = [read_record(path) for path in sorted((folder / "tiny" / "records").glob("*.json"))]
    return {r["id"]: json.dumps({k: v for k, v in r.items() if k != "seconds"}) for r in records}


@pytest.mark.parametrize("seed", [0])
def test_ten_kills_at_random_moments_lose_no_record_and_change_none(tmp_path, seed):
    began = time.monotonic()
    assert start(tmp_path / "calm").wait() == 0
    whole, calm, chance = time.monotonic() - began, kept(tmp_path / "calm"), random.Random(seed)
    assert len(calm) == 5
    before = {}
    for _ in range(10):
        process = start(tmp_path / "rough")
        time.sleep(chance.uniform(0.4, 1) * whole)
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = kept(tmp_path / "rough") if (tmp_path / "rough").exists() else {}
        assert before.items() <= found.items() <= calm.items()
        before = found
    assert start(tmp_path / "rough").wait() == 0
    assert kept(tmp_path / "rough") == calm
    assert not list((tmp_path / "rough" / "tiny").rglob("*.pt"))


def test_ctrl_c_says_how_to_go_on(tmp_path):
    process = start(tmp_path, subprocess.PIPE)
    while not list(tmp_path.rglob("*.pt")):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130 and message.endswith(
        "the same command goes on there (study: --failed)\n"
    )
