"""Sweeps over Dask workers end as undisturbed ones.

Even where the workers, their scheduler and their client are killed.
"""

import itertools
import os
import random
import re
import socket
import subprocess
import sys
import time
import types
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from builders import TINY, kept, refused, start_tiny_sweep, wait_until

from dlilib import cli
from dlilib.extras import MissingExtraError
from dlilib.study import cluster, sweep
from dlilib.training.run import Run
from dlilib.training.store import Store

DOCS = Path(__file__).parents[2] / "docs"
MANY_MACHINES = (DOCS / "how_to" / "many_machines.md").read_text()
FEW = "seed0 p_poisson=0.5"  # five of the tiny preset's 21 runs


def start_sweep(results, *words):
    return start_tiny_sweep(results, *words, stderr=subprocess.PIPE, stdout=subprocess.PIPE)


def finished(results):
    return kept(results / "tiny")


def workers_of(process):
    """The Dask workers that a sweep has started."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            found += [child] if "spawn_main" in " ".join(child.cmdline()) else []
    return found


@pytest.mark.slow
def test_workers_that_are_killed_lose_no_record_and_change_none(undisturbed, tmp_path):
    calm = undisturbed(FEW)
    process = start_sweep(tmp_path, "--workers", "2", "--match", FEW)
    wait_until(lambda: finished(tmp_path), process)
    for victim in workers_of(process):
        victim.kill()
    before = finished(tmp_path)
    assert before.items() < calm.items()
    _, message = process.communicate(timeout=240)
    assert process.returncode == 0 and "its worker was lost (1 of 10)" in message, message
    assert finished(tmp_path) == calm


@pytest.mark.soak
def test_workers_killed_again_and_again_lose_no_record_and_change_none(undisturbed, tmp_path):
    calm, chance, kills, before = undisturbed(), random.Random(0), 0, {}
    process = start_sweep(tmp_path, "--workers", "2")
    wait_until(lambda: finished(tmp_path), process)
    deadline = time.monotonic() + 240
    while process.poll() is None:
        assert time.monotonic() < deadline, "the sweep hangs"
        time.sleep(chance.uniform(1.5, 4))
        victims = workers_of(process) if process.poll() is None else []
        if victims:
            chance.choice(victims).kill()
            kills += 1
        found = finished(tmp_path)
        assert before.items() <= found.items() <= calm.items()
        before = found
    assert process.returncode == 0, process.stderr.read()
    assert finished(tmp_path) == calm and kills >= 3
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".json"]


@pytest.mark.soak
def test_workers_killed_as_soon_as_they_start_are_replaced(undisturbed, tmp_path):
    process = start_sweep(tmp_path, "--workers", "2", "--match", "seed0")
    wait_until(lambda: finished(tmp_path), process)
    end = time.monotonic() + 10
    while time.monotonic() < end:
        for victim in workers_of(process):
            victim.kill()
        time.sleep(0.3)
    _, message = process.communicate(timeout=240)
    assert process.returncode == 0, message
    assert finished(tmp_path) == undisturbed("seed0")


@pytest.fixture
def commands(tmp_path):
    """The documented commands, with a free port of this machine; all stopped at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    block = next(
        b
        for b in re.findall(r"```bash\n(.*?)```", MANY_MACHINES, re.DOTALL)
        if "dask scheduler" in b
    )
    lines = [re.sub(r"\s+#.*", "", line) for line in block.splitlines()]
    names = ("dask scheduler", "dask worker", "dli run")
    scheduler, worker, run = (next(line for line in lines if name in line) for name in names)
    address = re.search(r"tcp://[\w.]+:8786", worker)[0]
    assert address in run
    started = []

    def start(line):
        line = line.replace(address, f"tcp://127.0.0.1:{port}")
        line = line.replace("--port 8786", f"--host 127.0.0.1 --port {port}")
        words = line.split()
        settings = dict(
            word.split("=") for word in itertools.takewhile(lambda word: "=" in word, words)
        )
        words = [sys.executable, "-m", *words[len(settings) :]]
        log = (tmp_path / f"log{len(started)}").open("w")
        started.append(
            subprocess.Popen(words, env=os.environ | settings, stdout=log, stderr=log, cwd=tmp_path)
        )
        return started[-1]

    yield start, scheduler, worker, ["--scheduler", f"tcp://127.0.0.1:{port}"]
    for process in started:
        for child in (
            psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        ):
            child.kill()
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("match", "step"),
    [pytest.param("seed0", 1, marks=pytest.mark.slow), pytest.param("", 3, marks=pytest.mark.soak)],
)
def test_commands_of_the_readme_survive_the_loss_of_client_worker_and_scheduler(
    undisturbed, commands, tmp_path, match, step
):
    """Each time when `step` more runs are finished."""
    calm = undisturbed(match)
    start, scheduler, worker, address = commands
    results, words = tmp_path / "results", [*address, "--match", match]
    first = start(scheduler)
    start(worker)
    second_worker = start(worker)

    process = start_sweep(results, *words)
    wait_until(lambda: len(finished(results)) >= step, process)
    process.kill()  # the client
    found = finished(results)
    assert found.items() < calm.items()

    process = start_sweep(results, *words)
    # it has reached the scheduler
    assert next(line for line in process.stderr if "Dask dashboard" in line)
    wait_until(lambda: len(finished(results)) >= len(found) + step, process)
    for part in psutil.Process(second_worker.pid).children(recursive=True):
        part.kill()  # a worker; its nanny starts another
    found = finished(results)
    first.kill()
    _, message = process.communicate(timeout=120)
    assert process.returncode == 1 and "scheduler is lost" in message, message
    assert "Traceback" not in message
    assert found.items() <= finished(results).items() <= calm.items()

    start(scheduler)
    process = start_sweep(results, *words)
    out, message = process.communicate(timeout=240)
    assert process.returncode == 0, message
    assert f"{len(calm)} of {len(calm)} runs finished" in out
    assert finished(results) == calm


def test_no_worker_at_all_is_refused(tmp_path):
    refused(lambda: cluster.execute_on_workers([TINY], tmp_path), "workers must be 1 or more")


def test_no_scheduler_is_said(tmp_path, monkeypatch, capsys):
    words = ["--preset", "smoke", "--scheduler", "tcp://127.0.0.1:9", "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["dli", "run", *words])
    monkeypatch.setattr(cluster, "CONNECT", 1)
    with pytest.raises(SystemExit, match=r"^dli: no Dask scheduler at tcp://127"):
        cli.main()
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "at_once"),
    [
        pytest.param([], 2, marks=pytest.mark.slow),
        pytest.param(["--workers", "2"], 3, marks=pytest.mark.soak),
    ],
    ids=["plain", "workers"],
)
def test_two_sweeps_on_one_folder_share_the_work(undisturbed, tmp_path, words, at_once):
    calm = undisturbed(FEW)
    both = [start_sweep(tmp_path, "--match", FEW, *words) for _ in range(2)]
    wait_until(lambda: len(list(tmp_path.rglob("*.lock"))) >= at_once)
    wait_until(lambda: len(finished(tmp_path)) == len(calm), seconds=180)
    assert [process.wait() for process in both] == [0, 0]
    assert finished(tmp_path) == calm and not list(tmp_path.rglob("*.lock"))


@pytest.mark.slow
def test_a_run_that_another_process_holds_is_left_alone(tmp_path):
    with Store(tmp_path).claim(TINY) as mine:
        assert mine
        code = (
            "from dlilib.study.sweep import execute; from dlilib.training.run import Run; "
            f"print(execute([{TINY!r}], {str(tmp_path)!r}))"
        )
        found = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
    assert found.stdout.strip() == "1"
    assert sweep.execute([TINY], tmp_path, progress=False) == 0


def test_worker_that_does_not_see_the_folder_gives_the_record_back(tmp_path):
    record = cluster._train(TINY, str(tmp_path / "elsewhere" / ".sweep"), None, "cpu", 0)
    assert record["id"] == TINY.id and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_runs_that_fail_on_the_workers_are_named_and_the_others_kept(tmp_path):
    bad = Run(data="mvtec_ad-bottle", size=32, weights=None)
    with pytest.raises(ValueError, match=rf"1 runs failed.*{bad.id}: DataError.*needs a root"):
        cluster.execute_on_workers([bad, TINY], tmp_path, device="cpu", workers=1, progress=False)
    assert sweep.pending([bad, TINY], tmp_path) == [bad]


@pytest.mark.slow
def test_workers_with_several_threads_write_the_same_records(undisturbed, commands, tmp_path):
    start, scheduler, worker, address = commands
    start(scheduler)
    start(worker.replace("--nthreads 1", "--nthreads 2").replace("GPU=1", "GPU=2"))
    process = start_sweep(tmp_path / "results", *address, "--match", FEW)
    out, message = process.communicate(timeout=240)
    assert "5 of 5 runs finished" in out, message
    assert finished(tmp_path / "results") == undisturbed(FEW)


@pytest.mark.slow
def test_a_run_that_kills_its_workers_is_given_up_alone(tmp_path, monkeypatch, capsys):
    train, bad = cluster._train, replace(TINY, seed=1)
    monkeypatch.setattr(cluster, "LOSSES", 3)
    monkeypatch.setattr(
        cluster, "_train", lambda run, **how: os._exit(1) if run == bad else train(run, **how)
    )
    with pytest.raises(ValueError, match=rf"1 runs failed.*{bad.id}: KilledWorker"):
        cluster.execute_on_workers([bad, TINY], tmp_path, device="cpu", workers=1, progress=False)
    told = re.findall(r"(\S+): its worker was lost (.*)", capsys.readouterr().err)
    assert told == [(bad.id, "(1 of 3); started again"), (bad.id, "(2 of 3); started again")]
    assert sweep.pending([bad, TINY], tmp_path) == [bad]


def test_gpus_of_a_machine_are_dealt_in_turn(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    dealt = []
    for name in range(3):
        monkeypatch.setattr(
            "distributed.get_worker", lambda name=name: types.SimpleNamespace(name=name)
        )
        dealt.append(cluster._share("cuda"))
    assert dealt == ["cuda:0", "cuda:1", "cuda:0"] and cluster._share("cpu") == "cpu"


@pytest.mark.slow
def test_budget_drops_what_waits(tmp_path):
    assert (
        cluster.execute_on_workers(
            [TINY], tmp_path, device="cpu", workers=1, budget=0.01, progress=False
        )
        == 1
    )


def test_without_dask_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtraError, match=r'pip install -e "\.\[dask\]"'):
        cluster.execute_on_workers([TINY], tmp_path, workers=1)


@pytest.mark.parametrize(("status", "info"), [("running", {}), ("closed", {"workers": {}})])
def test_a_scheduler_that_is_lost_is_said_whichever_part_of_dask_knows_it_first(status, info):
    client = types.SimpleNamespace(status=status, scheduler_info=lambda n_workers: info)
    with pytest.raises(ValueError, match="the scheduler is lost"):
        cluster._slots(client, gpus=False)
