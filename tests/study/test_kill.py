"""A sweep that is killed again and again ends as if nothing had happened."""

import functools
import random
import signal
import subprocess
import time

import pytest
from builders import kept, start_tiny_sweep, wait_until

SLOW, SOAK = pytest.mark.slow, pytest.mark.soak


def start(folder, match, errors=subprocess.DEVNULL):
    # a shell's background job ignores Ctrl-C
    hears_ctrl_c = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    words = ("--match", match)
    return start_tiny_sweep(folder, *words, stderr=errors, preexec_fn=hears_ctrl_c)


@pytest.mark.parametrize(
    ("kills", "match"),
    [
        pytest.param(2, "seed0 p_poisson=0.5", marks=SLOW),
        pytest.param(10, "", marks=SOAK),
    ],
)
def test_kills_at_random_moments_lose_no_record_and_change_none(
    tmp_path, undisturbed, kills, match
):
    calm, chance, before = undisturbed(match), random.Random(0), {}
    for _ in range(kills):
        process = start(tmp_path, match)
        stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")}
        wait_until(lambda old=stamps: has_trained(tmp_path, old), process)
        time.sleep(chance.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = kept(tmp_path / "tiny")
        assert before.items() <= found.items() <= calm.items()
        before = found
    assert len(before) < len(calm)
    assert start(tmp_path, match).wait() == 0
    assert kept(tmp_path / "tiny") == calm
    assert not list((tmp_path / "tiny").rglob("*.pt"))


def has_trained(folder, stamps):
    """Whether a checkpoint is newer than its stamp."""
    for path in folder.rglob("*.pt"):
        try:
            if path.stat().st_mtime_ns != stamps.get(path):
                return True
        except FileNotFoundError:  # the run has just ended
            continue
    return False


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(tmp_path):
    process = start(tmp_path, "seed0 p_poisson=0.5", subprocess.PIPE)
    wait_until(lambda: list(tmp_path.rglob("*.pt")), process)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130
    assert message.endswith("the same command goes on there (study: --failed)\n")
