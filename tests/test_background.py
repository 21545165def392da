"""`dli run --background`: it makes way for everything else, ends at once, and loses at most an epoch."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dlilib import cli, study

DLI = [sys.executable, "-m", "dlilib", "run", "--background"]
PATIENCE = 120  # seconds


def waited_for(condition, process):
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert process.poll() is None and time.monotonic() < deadline, "it ended, or took too long"
        time.sleep(0.05)
    return found


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_makes_way_and_ends_at_once_with_all_its_processes(tmp_path):
    command = [*DLI, "--preset", "smoke", "--workers", "2", "--results", str(tmp_path)]
    log = tmp_path / "log"
    with log.open("w") as output:
        sweep = subprocess.Popen(command, stderr=output)
    try:
        told = waited_for(lambda: re.search(r"processes (\d+) (\d+):", log.read_text()), sweep)
        waited_for(lambda: len([*tmp_path.glob("smoke/checkpoints/*.pt")]) == 2, sweep)
        pids = [int(pid) for pid in told.groups()]
        for pid in pids:
            assert os.getpriority(os.PRIO_PROCESS, pid) == 19
            assert b"OMP_NUM_THREADS=1\0" in Path(f"/proc/{pid}/environ").read_bytes()
            group = Path(f"/proc/{pid}/autogroup")
            assert not group.exists() or group.read_text().endswith("nice 19\n")
        os.kill(pids[0], signal.SIGSTOP)  # a paused one ends too
        sweep.terminate()
        assert sweep.wait(timeout=10) == 128 + signal.SIGTERM
        assert not any(alive(pid) for pid in pids)
    finally:
        sweep.kill()
    for path in tmp_path.glob("smoke/checkpoints/*.pt"):
        assert torch.load(path, weights_only=True)["epoch"] >= 1


def test_it_finishes_what_is_pending(tmp_path):
    words = ["--preset", "smoke", "--match", "shots=1 baseline nbr=0.0", "--results", str(tmp_path)]
    done = subprocess.run([*DLI, *words], capture_output=True, text=True)
    assert done.stdout == "1 of 1 runs finished, 0 pending\n", done.stderr
    assert not study.pending(study.all_runs("smoke", words[3]), tmp_path / "smoke")
    assert not [*tmp_path.glob("smoke/checkpoints/*.log")]


def test_the_last_words_of_a_process_that_fails_are_told(tmp_path):
    words = ["--preset", "lite", "--root", str(tmp_path / "absent"), "--results", str(tmp_path)]
    done = subprocess.run([*DLI, *words], capture_output=True, text=True)
    assert done.returncode == 1
    assert "background-1.log" in done.stderr and "absent" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [["--device", "cuda"], ["--scheduler", "tcp://head:8786"]])
def test_it_is_for_this_machines_cpu(words):
    from typer.testing import CliRunner

    result = CliRunner().invoke(cli.app, ["run", "--background", *words])
    assert result.exit_code == 2
