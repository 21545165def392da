"""`dli run --background`: it makes way for everything else, and ends at once.

It loses at most an epoch.
"""

import functools
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from builders import wait_until

from dlilib import cli
from dlilib.study import background, experiments, sweep

DLI = [sys.executable, "-m", "dlilib", "run", "--background"]


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def epochs(folder):
    """Each run that has begun -> its epoch and its losses."""
    found = {}
    for path in folder.glob("smoke/checkpoints/*.pt"):
        with suppress(FileNotFoundError):  # its run has just ended
            state = torch.load(path, weights_only=True)
            found[path.stem] = state["epoch"], state["history"]["loss"]
    for path in folder.glob("smoke/records/*.json"):
        losses = json.loads(path.read_text())["history"]["loss"]
        found[path.stem] = len(losses), losses
    return found


@contextmanager
def running(folder):
    """Two background processes at the smoke preset's first runs, and their ids."""
    command = [*DLI, "--preset", "smoke", "--workers", "2", "--results", str(folder)]
    log, environment = folder / "log", {**os.environ, "OMP_NUM_THREADS": "2"}
    with log.open("w") as output:
        # a shell's background job ignores Ctrl-C, and so would what it starts
        heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        process = subprocess.Popen(command, stderr=output, env=environment, preexec_fn=heard)
    pids = []
    try:
        told = wait_until(lambda: re.search(r"processes (\d+) (\d+):", log.read_text()), process)
        pids = [int(pid) for pid in told.groups()]
        yield process, pids
    finally:
        process.kill()
        process.wait()
        for pid in pids:  # a paused one outlives its parent
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_it_makes_way_ends_at_once_however_it_ends_and_loses_at_most_an_epoch(tmp_path):
    with running(tmp_path) as (process, pids):
        wait_until(lambda: len(epochs(tmp_path)) >= 2, process)
        for pid in pids:
            assert os.getpriority(os.PRIO_PROCESS, pid) == 19
            assert b"OMP_NUM_THREADS=1\0" in Path(f"/proc/{pid}/environ").read_bytes()
            group = Path(f"/proc/{pid}/autogroup")
            assert not group.exists() or group.read_text().endswith("nice 19\n")
        process.kill()  # not even a word to its processes
        process.wait()
        wait_until(lambda: not any(alive(pid) for pid in pids))
    for end in (signal.SIGINT, signal.SIGTERM):
        before = epochs(tmp_path)
        with running(tmp_path) as (process, pids):
            wait_until(lambda old=before: all_went_on(tmp_path, old), process)
            os.kill(pids[0], signal.SIGSTOP)  # a paused one ends too
            process.send_signal(end)
            process.wait(timeout=10)
            assert not any(alive(pid) for pid in pids)
        now = epochs(tmp_path)
        for name, (epoch, losses) in before.items():
            assert now[name][0] >= epoch and now[name][1][:epoch] == losses


def all_went_on(folder, before):
    now = epochs(folder)
    ended = {path.stem for path in folder.glob("smoke/records/*.json")}
    return all(name in ended or now[name][0] > before[name][0] for name in before)


def test_a_session_that_may_not_be_lowered_yet_is_lowered_a_moment_later(monkeypatch):
    """Linux lets an ordinary user lower one session in a tenth of a second.

    It says EAGAIN to the next.
    """
    answers, written = [BlockingIOError(), BlockingIOError(), None], []

    def write(path, text):
        written.append((str(path), text))
        if answer := answers.pop(0):
            raise answer

    monkeypatch.setattr(Path, "write_text", write)
    monkeypatch.setattr(os, "setpriority", lambda *args: None)
    background._lowest_priority(7)
    assert written == [("/proc/7/autogroup", "19")] * 3


@pytest.mark.slow
def test_it_finishes_what_is_pending(tmp_path):
    words = [
        "--preset",
        "smoke",
        "--match",
        "shots=1 method=baseline nbr=0.0",
        "--results",
        str(tmp_path),
    ]
    done = subprocess.run([*DLI, *words], capture_output=True, text=True)
    assert done.stdout == "1 of 1 runs finished, 0 pending\n", done.stderr
    assert not sweep.pending(experiments.all_runs("smoke", words[3]), tmp_path / "smoke")
    assert {path.suffix for path in tmp_path.rglob("*.*")} == {".json"}


@pytest.mark.slow
def test_the_last_words_of_a_process_that_fails_are_told(tmp_path):
    words = ["--preset", "lite", "--root", str(tmp_path / "absent"), "--results", str(tmp_path)]
    done = subprocess.run([*DLI, *words], capture_output=True, text=True)
    assert done.returncode == 1
    assert re.search(
        r"^dli: a process of the sweep failed with exit code 1: dli: .*absent",
        done.stderr,
        re.MULTILINE,
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [["--device", "cuda"], ["--scheduler", "tcp://head:8786"]])
def test_it_is_for_this_machines_cpu(words):
    from typer.testing import CliRunner

    result = CliRunner().invoke(cli.app, ["run", "--background", *words])
    assert result.exit_code == 2
