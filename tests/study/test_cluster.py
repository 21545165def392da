"""Sweeps over Dask workers that are killed, as is their scheduler and their client, end as undisturbed ones."""

import itertools
import json
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

from dlilib.study import cluster, sweep
from dlilib.training.run import Run
from dlilib.training.store import Store, read_record

README = (Path(__file__).parents[2] / "README.md").read_text()
SWEEP = """
import sys
from dlilib import cli
from dlilib.study import presets
from dlilib.training.run import Run
if __name__ == "__main__":
    base = Run(data="toy", size=16, weights=None, epochs=4, batch=16, free_share=0.05)
    few = {"encoders": ("resnet18",), "fraction_encoder": "resnet18", "fractions": (1.0,), "shots": ()}
    presets.PRESETS["tiny"] = presets.Preset("tiny", base, presets.SMOKE_STAGES, seeds=(0, 1, 2), **few)
    sys.argv[1:] = ["run", "--preset", "tiny", "--device", "cpu", *sys.argv[1:]]
    cli.main()
"""
TINY = Run(
    data="toy", size=16, weights=None, epochs=1, batch=16, free_share=0.05, method="baseline"
)


@pytest.fixture(scope="module")
def start_sweep(tmp_path_factory):
    """start_sweep(results, *words) starts the sweep as its own process, with one thread a run as the workers have."""
    script = tmp_path_factory.mktemp("sweep") / "sweep.py"
    script.write_text(SWEEP)

    def start(results, *words):
        command = [sys.executable, script, "--results", results, *words]
        return subprocess.Popen(
            command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT, text=True
        )

    return start


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def kept(results):
    """id -> record without its seconds; every file there must be a whole record."""
    records = [
        read_record(path) for path in sorted(Path(results, "tiny", "records").glob("*.json"))
    ]
    return {r["id"]: json.dumps({k: v for k, v in r.items() if k != "seconds"}) for r in records}


@pytest.fixture(scope="module")
def calm(start_sweep, tmp_path_factory):
    """The records of an undisturbed sweep of 21 runs by a plain loop."""
    folder = tmp_path_factory.mktemp("calm")
    assert start_sweep(folder).wait() == 0
    found = kept(folder)
    assert len(found) == 21
    return found


def of_seed_0(records):
    return {name: record for name, record in records.items() if "seed0" in name}


def workers_of(process):
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            found += [child] if "spawn_main" in " ".join(child.cmdline()) else []
    return found


def until(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.2)


def test_workers_killed_again_and_again_lose_no_record_and_change_none(start_sweep, calm, tmp_path):
    process, chance, kills, before = (
        start_sweep(tmp_path, "--workers", "2"),
        random.Random(0),
        0,
        {},
    )
    until(lambda: kept(tmp_path))
    deadline = time.monotonic() + 240
    while process.poll() is None:
        assert time.monotonic() < deadline, "the sweep hangs"
        time.sleep(chance.uniform(1.5, 4))
        victims = workers_of(process) if process.poll() is None else []
        if victims:
            chance.choice(victims).kill()
            kills += 1
        found = kept(tmp_path)
        assert before.items() <= found.items() <= calm.items()
        before = found
    assert process.returncode == 0, process.stderr.read()
    assert kept(tmp_path) == calm and kills >= 3
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".json"]


def test_workers_killed_as_soon_as_they_start_are_replaced(start_sweep, calm, tmp_path):
    process = start_sweep(tmp_path, "--workers", "2", "--match", "seed0")
    until(lambda: kept(tmp_path))
    end = time.monotonic() + 10
    while time.monotonic() < end:
        for victim in workers_of(process):
            victim.kill()
        time.sleep(0.3)
    _, message = process.communicate(timeout=240)
    assert process.returncode == 0, message
    assert kept(tmp_path) == of_seed_0(calm)


@pytest.fixture
def commands(tmp_path):
    """The README's commands, with a free port of this machine for its example's address; all stopped at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    block = next(
        b for b in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) if "dask scheduler" in b
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
            subprocess.Popen(
                words, env=ENVIRONMENT | settings, stdout=log, stderr=log, cwd=tmp_path
            )
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


def test_commands_of_the_readme_survive_the_loss_of_client_worker_and_scheduler(
    start_sweep, calm, commands, tmp_path
):
    start, scheduler, worker, address = commands
    results = tmp_path / "results"
    first = start(scheduler)
    start(worker)
    second_worker = start(worker)

    process = start_sweep(results, *address)
    until(lambda: len(kept(results)) >= 3)
    process.kill()  # the client
    found = kept(results)
    assert found.items() <= calm.items()

    process = start_sweep(results, *address)
    assert next(
        line for line in process.stderr if "Dask dashboard" in line
    )  # it has reached the scheduler
    until(lambda: len(kept(results)) > len(found) + 2)
    for part in psutil.Process(second_worker.pid).children(recursive=True):
        part.kill()  # a worker; its nanny starts another
    found = kept(results)
    first.kill()
    out, message = process.communicate(timeout=120)
    assert (
        process.returncode == 1 and "scheduler is lost" in message and "Traceback" not in message
    ), message
    assert found.items() <= kept(results).items() <= calm.items()

    start(scheduler)
    process = start_sweep(results, *address)
    out, message = process.communicate(timeout=240)
    assert process.returncode == 0 and "21 of 21 runs finished" in out, message
    assert kept(results) == calm


def test_no_scheduler_is_said(start_sweep, tmp_path):
    process = start_sweep(tmp_path, "--scheduler", "tcp://127.0.0.1:9")
    _, message = process.communicate(timeout=60)
    assert process.returncode == 1 and message.strip().splitlines()[-1].startswith(
        "dli: no Dask scheduler at tcp://127"
    )


@pytest.mark.parametrize(
    ("words", "at_once"), [([], 2), (["--workers", "2"], 3)], ids=["plain", "workers"]
)
def test_two_sweeps_on_one_folder_share_the_work(start_sweep, calm, tmp_path, words, at_once):
    both = [
        start_sweep(tmp_path, "--match", "seed0", *words),
        start_sweep(tmp_path, "--match", "seed0", *words),
    ]
    until(lambda: len(list(tmp_path.rglob("*.lock"))) >= at_once)
    until(lambda: len(kept(tmp_path)) == 7, 180)
    assert [process.wait() for process in both] == [0, 0]
    assert kept(tmp_path) == of_seed_0(calm) and not list(tmp_path.rglob("*.lock"))


def test_a_run_that_another_process_holds_is_left_alone(tmp_path):
    with Store(tmp_path).claim(TINY) as mine:
        assert mine
        code = f"from dlilib.study.sweep import execute; from dlilib.training.run import Run; print(execute([{TINY!r}], {str(tmp_path)!r}))"
        found = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
    assert found.stdout.strip() == "1"
    assert sweep.execute([TINY], tmp_path, progress=False) == 0


def test_worker_that_does_not_see_the_folder_gives_the_record_back(tmp_path):
    record = cluster._train(TINY, str(tmp_path / "elsewhere" / ".sweep"), None, "cpu", 0)
    assert record["id"] == TINY.id and not list(tmp_path.iterdir())


def test_runs_that_fail_on_the_workers_are_named_and_the_others_kept(tmp_path):
    bad = Run(data="mvtec_ad-bottle", size=32, weights=None)
    with pytest.raises(ValueError, match=rf"1 runs failed.*{bad.id}: DataError.*needs a root"):
        cluster.execute_on_workers([bad, TINY], tmp_path, device="cpu", workers=1, progress=False)
    assert sweep.pending([bad, TINY], tmp_path) == [bad]


def test_workers_with_several_threads_write_the_same_records(start_sweep, calm, commands, tmp_path):
    start, scheduler, worker, address = commands
    start(scheduler)
    start(worker.replace("--nthreads 1", "--nthreads 2").replace("GPU=1", "GPU=2"))
    process = start_sweep(tmp_path / "results", *address, "--match", "seed0")
    out, message = process.communicate(timeout=240)
    assert "7 of 7 runs finished" in out, message
    assert kept(tmp_path / "results") == of_seed_0(calm)


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


def test_budget_drops_what_waits(tmp_path):
    assert (
        cluster.execute_on_workers(
            [TINY], tmp_path, device="cpu", workers=1, budget=0.01, progress=False
        )
        == 1
    )


def test_without_dask_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match=r"pip install 'dlilib\[dask\]'"):
        cluster.execute_on_workers([TINY], tmp_path, workers=1)
