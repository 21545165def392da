"""Records and checkpoints: what is spoilt is refused, what is finished is kept."""

import json
import os
import pickle
import platform
from dataclasses import replace

import pytest
import torch
from builders import TINY, refused

import dlilib
from dlilib.data.files import WriteError
from dlilib.study.cluster import execute_on_workers as over_workers
from dlilib.study.sweep import execute, load_tiles
from dlilib.training.store import Store, machine, read_record
from dlilib.training.trainer import Trainer, fit


def test_cut_record_and_checkpoint_of_another_run_name_their_file(few_tiles, tmp_path):
    store = Store(tmp_path)
    store.finish(TINY, {"id": TINY.id, "run": {}})
    with pytest.raises(ValueError, match=f"{TINY.id}.*not a record"):
        store.record(TINY)
    store.record_path(TINY).write_text('{"id": "cut of')
    with pytest.raises(ValueError, match=f"{TINY.id}.*not a record"):
        read_record(store.record_path(TINY))
    store.record_path(TINY).unlink()
    store.save(TINY, {"run": {"seed": 5}})
    with pytest.raises(ValueError, match="another run"):
        fit(TINY, few_tiles, folder=tmp_path)
    store.checkpoint_path(TINY).write_bytes(b"garbage")
    with pytest.raises(ValueError, match=r"unreadable checkpoint.*delete it"):
        fit(TINY, few_tiles, folder=tmp_path)


def test_checkpoint_that_would_run_code_is_refused(few_tiles, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    store = Store(tmp_path)
    store.save(TINY, {"run": Trap()})
    with pytest.raises(ValueError, match="unreadable checkpoint"):
        fit(TINY, few_tiles, folder=tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_failed_write_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.save(TINY, {"epoch": 1})
    before = store.checkpoint_path(TINY).read_bytes()

    def full(descriptor):
        raise OSError(28, "no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(WriteError, match="no space"):
        store.save(TINY, {"epoch": 2})
    assert store.checkpoint_path(TINY).read_bytes() == before
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


@pytest.mark.parametrize("state", [[1], {}, {"model": {}}], ids=str)
def test_checkpoint_of_something_else_is_refused(few_tiles, tmp_path, state):
    Store(tmp_path).save(TINY, state)
    refused(
        lambda: fit(TINY, few_tiles, folder=tmp_path),
        "is of another run or other data: delete it",
    )


def test_memory_that_runs_out_is_not_blamed_on_the_checkpoint(few_tiles, tmp_path, monkeypatch):
    Store(tmp_path).save(TINY, Trainer(TINY, few_tiles, torch.device("cpu")).state())

    def full(self, state):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.optim.AdamW, "load_state_dict", full)
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        fit(TINY, few_tiles, folder=tmp_path)


def test_checkpoint_with_a_flipped_bit_is_refused(few_tiles, tmp_path):
    store = Store(tmp_path)
    store.save(TINY, Trainer(TINY, few_tiles, torch.device("cpu")).state())
    content = bytearray(store.checkpoint_path(TINY).read_bytes())
    content[len(content) // 2] ^= 1
    store.checkpoint_path(TINY).write_bytes(content)
    refused(lambda: fit(TINY, few_tiles, folder=tmp_path), "unreadable checkpoint; delete it")


class Evil:
    def __reduce__(self):
        return os.mkdir, ("harmed",)


def test_checkpoints_and_records_are_never_unpickled(few_tiles, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evil = pickle.dumps(Evil())
    store = Store(tmp_path)
    store.save(TINY, {})
    store.checkpoint_path(TINY).write_bytes(evil)
    refused(lambda: fit(TINY, few_tiles, folder=tmp_path), "unreadable checkpoint; delete it")
    store.record_path(TINY).parent.mkdir()
    store.record_path(TINY).write_bytes(evil)
    refused(lambda: store.record(TINY), "not a record")
    assert not (tmp_path / "harmed").exists()


CHANGES = {
    "a better IoU": lambda r: r["best"].update(iou=0.99),
    "NaN": lambda r: r["last"].update(iou=float("nan")),
    "no IoU": lambda r: r["best"].pop("iou"),
    "an epoch to come": lambda r: r["best"].update(epoch=9),
    "words for seconds": lambda r: r.update(seconds="x"),
    "no device": lambda r: r.update(machine=3),
    "counts of one": lambda r: r["best"].update(classes=[[1]] * 5),
}


def test_records_that_were_changed_are_refused(tiny_record, tmp_path):
    Store(tmp_path).finish(TINY, tiny_record)
    path = Store(tmp_path).record_path(TINY)
    whole = path.read_text()
    for change in CHANGES.values():
        record = json.loads(whole)
        change(record)
        path.write_text(json.dumps(record))
        refused(
            lambda: dlilib.records(tmp_path),
            rf"{TINY.id}.json: a record that was changed .*delete it",
        )


def test_what_a_killed_process_was_writing_is_cleared_away(tmp_path):
    parts = [
        Store(tmp_path).checkpoint_path(run).with_name(f".{run.id}.pt.7")
        for run in (TINY, replace(TINY, seed=1))
    ]
    parts[0].parent.mkdir()
    for part in parts:
        part.touch()
    parts.append(parts[0].with_suffix(".Ab12Cd"))  # on its way, by rsync
    parts[2].touch()
    with Store(tmp_path).claim(TINY):
        assert [part.exists() for part in parts] == [False, True, True]


@pytest.mark.parametrize("device", ["mps", "xpu:7", "cuda:9"])
def test_devices_that_are_not_there_are_refused(device):
    kind = device.partition(":")[0]
    refused(lambda: execute([], "nowhere", device=device), f"device {device}: torch sees . {kind}")


def test_another_kind_of_device_is_not_called_a_cpu():
    assert not machine(torch.device("mps"))["device"].startswith("CPU")


@pytest.mark.parametrize(("has", "kind"), [(True, "AVX512 AMX"), (False, "AVX512")])
def test_a_cpu_is_named_by_the_units_that_its_speed_depends_on(has, kind, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_tile": has})
    threads = torch.get_num_threads()
    told = machine(torch.device("cpu"))["device"]
    assert told == f"CPU {platform.machine()} {kind}, {threads} threads"


def test_a_sweep_on_other_data_is_refused_before_it_trains(tiny_record, tmp_path, monkeypatch):
    other = {**tiny_record, "data": {**tiny_record["data"], "digest": "other"}}
    Store(tmp_path).finish(TINY, other)
    monkeypatch.setattr("dlilib.study.sweep.fit", None)
    refused(
        lambda: execute([replace(TINY, seed=1)], tmp_path, device="cpu", progress=False),
        f"{TINY.id}.json: of other data than toy here, though of one name",
    )


def test_record_cut_in_half_is_refused(tiny_record, tmp_path):
    Store(tmp_path).finish(TINY, tiny_record)
    path = Store(tmp_path).record_path(TINY)
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    for read in (
        dlilib.records,
        lambda f: execute([TINY], f),
        lambda f: over_workers([TINY], f, workers=1),
    ):
        refused(lambda read=read: read(tmp_path), "not a record .*delete it to run it again")


def test_checkpoint_of_another_configuration_is_refused(few_tiles, tmp_path):
    other, store = replace(TINY, lr=1e-3), Store(tmp_path)
    trainer = Trainer(other, few_tiles, torch.device("cpu"))
    store.save(TINY, trainer.state())
    refused(
        lambda: fit(TINY, few_tiles, folder=tmp_path),
        "is of another run or other data: delete it",
    )


def test_a_clock_that_jumps_back_changes_nothing(tmp_path, monkeypatch):
    ticks = iter(range(10**9, 0, -1000))
    monkeypatch.setattr("time.time", lambda: next(ticks))
    assert execute([TINY], tmp_path, budget=60, progress=False) == 0
    assert 0 < dlilib.records(tmp_path)["seconds"][0] < 60


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.system(f"mount -t tmpfs -o size=1m tmpfs '{place}' 2> /dev/null"):
        pytest.skip("FULL DISK NOT TESTED: mounting a tmpfs needs root")
    yield place
    os.system(f"umount '{place}'")


@pytest.mark.slow
def test_a_full_disk_keeps_what_is_finished(tiny_record, small_disk):
    store = Store(small_disk)
    data = {**tiny_record["data"], "digest": load_tiles(TINY).digest}  # that of all toy tiles
    store.finish(TINY, {**tiny_record, "data": data})
    before = dlilib.records(small_disk)
    other = [replace(TINY, seed=1)]
    refused(lambda: execute(other, small_disk, progress=False), "cannot be written .No space left")
    refused(
        lambda: over_workers(other, small_disk, workers=1, progress=False),
        "cannot be written .No space left",
    )
    assert dlilib.records(small_disk).equals(before)
    assert [path.name for path in small_disk.rglob("*") if path.is_file()] == [
        store.record_path(TINY).name
    ]


@pytest.mark.slow
def test_a_read_only_disk_is_said(small_disk):
    os.system(f"mount -o remount,ro '{small_disk}'")
    refused(
        lambda: execute([TINY], small_disk, progress=False),
        "cannot be written .Read-only file system",
    )
    refused(
        lambda: over_workers([TINY], small_disk, workers=1, progress=False),
        "cannot be written .Read-only",
    )
