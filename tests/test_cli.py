import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace

import nbformat
import pandas as pd
import pytest
from builders import TINY_PRESET
from typer.testing import CliRunner

from dlilib import cli
from dlilib.analysis import records as records_
from dlilib.analysis import report
from dlilib.benchmark import speed
from dlilib.cli import _seconds, app
from dlilib.data.files import DataError
from dlilib.study import experiments, presets, sweep
from dlilib.training.store import Store
from dlilib.wording import duration


def dli(*words):
    return CliRunner().invoke(app, [str(w) for w in words])


@pytest.fixture
def tiny_study(monkeypatch):
    """A preset of seven runs of an epoch."""
    tiny = replace(TINY_PRESET, base=replace(TINY_PRESET.base, epochs=1), seeds=(0,))
    monkeypatch.setitem(presets.PRESETS, "tiny", tiny)


@pytest.mark.slow
def test_data_prints_the_counts(magnetic_root):
    result = dli("data", "magnetic-tiles", "--root", magnetic_root)
    assert result.exit_code == 0
    assert "115/85/57/32/103/952" in result.output


def test_run_stops_at_the_budget_and_status_tells(tiny_study, tmp_path):
    runs = experiments.all_runs("tiny")
    assert "duration unknown" in dli("status", "--preset", "tiny", "--results", tmp_path).output
    none = dli("run", "--preset", "tiny", "--results", tmp_path, "--budget", "0s")
    assert f"0 of {len(runs)} runs finished" in none.output
    one = dli("run", "--preset", "tiny", "--results", tmp_path, "--match", "baseline")
    assert "1 of 1 runs finished, 0 pending" in one.output
    status = dli("status", "--preset", "tiny", "--results", tmp_path).output
    left = len(runs) - 1
    assert re.search(
        rf"1 of {len(runs)} runs finished, {left} pending\n  {left} of them: about \d+ s, one",
        status,
    )
    assert status.count("pending") == len(runs)  # a line each, and the sum


def test_status_beside_a_sweep_counts_what_was_pending_when_it_looked(
    tiny_study, tmp_path, monkeypatch
):
    words = ("--preset", "tiny", "--results", tmp_path, "--match", "baseline")
    dli("run", *words)
    (record,) = (tmp_path / "tiny" / "records").glob("*.json")
    aside, read = record.rename(tmp_path / "aside"), records_.records

    def then_one_more(folder):
        found = read(folder)
        if folder == record.parent:
            shutil.copy(aside, record)
        return found

    monkeypatch.setattr(records_, "records", then_one_more)
    result = dli("status", *words)
    assert result.exit_code == 0 and "0 of 1 runs finished, 1 pending" in result.output


def test_the_pilots_runs_are_asked_for_by_name(tmp_path):
    pilot = experiments.pilot("lite")
    told = dli(
        "status", "--preset", "lite", "--pilot", "--match", "split=tile", "--results", tmp_path
    ).output
    assert all((run.id in told) == (run.split == "tile") for run in pilot)
    assert "smoke has no pilot" in dli("status", "--preset", "smoke", "--pilot").output


@pytest.mark.parametrize(
    ("text", "seconds"), [("", None), ("90s", 90), ("9m", 540), ("1.5h", 5400), ("20", 20)]
)
def test_budget_in_words(text, seconds):
    assert _seconds(text) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"), [(8, "8 s"), (180, "3 min"), (7000, "117 min"), (33000, "9.2 hours")]
)
def test_durations_are_told_in_units_that_fit(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    "words",
    [
        ("data", "folder"),
        ("run", "--budget", "soon"),
        ("run", "--match", "nothing-like-it"),
        ("status", "--match", "nothing-like-it"),
        ("report", "--notebooks", "/no/such/folder"),
        ("study", "--only", "no-such-notebook"),
    ],
)
def test_wrong_words_are_a_usage_error(words):
    assert dli(*words).exit_code == 2


def test_unknown_data_are_an_error_that_names_the_known():
    result = dli("data", "imagenet")
    assert isinstance(result.exception, DataError) and "magnetic_tiles" in str(result.exception)


BAD_ROOT = ("data", "magnetic-tiles", "--root", "/no/such/folder")


@pytest.mark.parametrize(
    "words", [BAD_ROOT, pytest.param(("status", "--preset", "huge"), marks=pytest.mark.slow)]
)
def test_user_errors_are_one_line(words):
    result = subprocess.run(
        [sys.executable, "-m", "dlilib", *words], capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stderr.startswith("dli: ")
    assert "Traceback" not in result.stderr


@pytest.fixture
def quick_speed(monkeypatch):
    """`dli speed` with two measurements that take no time; each gives another one."""
    times = iter([1.5, 1.25, 1.0])

    def blending(tiles):
        return pd.DataFrame({"what": ["dlilib"], "mask": ["all"], "ms": [next(times)]})

    measurements = {"blending": blending, "scaling": lambda tiles: 1 / 0}
    monkeypatch.setattr("dlilib.cli.magnetic_tiles", lambda root: None)
    monkeypatch.setattr(speed, "measurements", lambda *args, **more: measurements)


def test_speed_replaces_the_rows_of_its_kind_of_machine(tmp_path, quick_speed):
    path = tmp_path / "tables" / "speed_blending_cpu.csv"
    path.parent.mkdir()
    path.write_text("what,mask,ms,device,torch\ndlilib,all,2.5,another CPU,2.0\n")
    words = ("speed", "--device", "cpu", "--results", tmp_path, "--only", "blending")
    assert [dli(*words).exit_code for _ in range(2)] == [0, 0]
    written = pd.read_csv(path)
    assert written["ms"].tolist() == [2.5, 1.25]
    assert written["device"][0] == "another CPU" and written["device"][1].startswith("CPU")
    path.write_text("a,b\n1,2\n")
    shown = dli(*words)
    assert "not a table of `dli speed`" in str(shown.exception)
    assert "speed_blending_cpu.csv" in shown.output and " 1 " in shown.output  # measured, not lost
    assert path.read_text() == "a,b\n1,2\n"


def test_speed_refuses_a_table_that_it_does_not_measure(tmp_path, quick_speed):
    shown = dli("speed", "--results", tmp_path, "--only", "blending", "--only", "pixels")
    assert shown.exit_code == 2  # a usage error
    assert "no table pixels; there are blending and scaling" in " ".join(shown.output.split())
    assert not list(tmp_path.iterdir())


def test_speed_measures_a_table_once(tmp_path, quick_speed):
    twice = ("--only", "blending", "--only", "blending")
    assert dli("speed", "--results", tmp_path, *twice).exit_code == 0
    written = pd.read_csv(tmp_path / "tables" / "speed_blending_cpu.csv")
    assert written["ms"].tolist() == [1.5]  # the first of its times


def test_report_writes_the_results_page(tmp_path):
    shutil.copytree("results/lite/records", tmp_path / "lite" / "records")
    assert dli("report", "--results", tmp_path).exit_code == 0
    assert "do not edit" in (tmp_path / "README.md").read_text()


def test_report_on_other_results_leaves_the_projects_page(tmp_path):
    front = tmp_path / "README.md"
    for folder, renewed in (("scratch", False), ("results", True)):
        shutil.copytree("results/lite/records", tmp_path / folder / "lite" / "records")
        front.write_text(f"{report.BEGIN}\n{report.END}\n")
        assert dli("report", "--results", tmp_path / folder).exit_code == 0
        assert ("Preset" in front.read_text()) == renewed


def test_report_without_records_is_refused(tmp_path):
    result = dli("report", "--results", tmp_path)
    assert isinstance(result.exception, ValueError) and "no records" in str(result.exception)
    assert not list(tmp_path.iterdir())


def notebooks_of(source, results, *more):
    """The words of `dli` that execute the notebooks in `source`, without training."""
    words = ["study", "--preset", "tiny", "--no-compute", "--notebooks", source]
    return [*words, "--results", results, *more]


def broken(folder, name, line):
    cells = [nbformat.v4.new_code_cell('preset = "smoke"', metadata={"tags": ["parameters"]})]
    cells += [
        nbformat.v4.new_code_cell(text)
        for text in ("print('begun', preset)", line, "print('ended')")
    ]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(
        nbformat.v4.new_notebook(cells=cells, metadata=metadata), folder / f"{name}.ipynb"
    )


def printed(path):
    outputs = (o for c in nbformat.read(path, 4).cells if c.cell_type == "code" for o in c.outputs)
    return "".join(o.get("text", "") for o in outputs)


@pytest.mark.slow
def test_notebooks_that_fail_stop_nobody_and_are_redone(tiny_study, tmp_path):
    source, results = tmp_path / "notebooks", tmp_path / "results"
    source.mkdir()
    for name, line in {
        "1_good": "pass",
        "2_wrong": "1 / 0",
        "3_killed": "import os; os.kill(os.getpid(), 9)",
        "4_good": "pass",
    }.items():
        broken(source, name, line)
    words = notebooks_of(source, results, "--jobs", 3)
    message = str(dli(*words).exception)
    assert (
        "2 of 4 notebooks failed" in message
        and "2_wrong.ipynb: " in message
        and "ZeroDivisionError" in message
    )
    assert "3_killed.ipynb: DeadKernelError" in message
    made = results / "tiny" / "notebooks"
    assert sorted(p.name for p in made.iterdir()) == [
        "1_good.ipynb",
        "2_wrong.failed.ipynb",
        "3_killed.failed.ipynb",
        "4_good.ipynb",
    ]
    for name in ("2_wrong", "3_killed"):
        assert printed(made / f"{name}.failed.ipynb") == "begun tiny\n"  # what there was is kept
        broken(source, name, "pass")
    stamps = {name: (made / f"{name}.ipynb").stat().st_mtime_ns for name in ("1_good", "4_good")}
    redone = dli(*words, "--failed")
    assert redone.exit_code == 0
    assert f"--preset tiny --results {results} builds pages" in redone.output
    assert sorted(p.stem for p in made.iterdir()) == ["1_good", "2_wrong", "3_killed", "4_good"]
    assert printed(made / "2_wrong.ipynb") == "begun tiny\nended\n"
    assert {name: (made / f"{name}.ipynb").stat().st_mtime_ns for name in stamps} == stamps


@pytest.mark.slow
def test_a_study_waits_for_runs_that_others_hold(tiny_study, tmp_path, monkeypatch):
    source = tmp_path / "notebooks"
    source.mkdir()
    broken(source, "1_good", "pass")
    store, naps = Store(tmp_path / "results" / "tiny"), []
    with ExitStack() as held:
        assert held.enter_context(store.claim(experiments.all_runs("tiny")[0]))
        monkeypatch.setattr("time.sleep", lambda seconds: (naps.append(seconds), held.close()))
        done = dli(
            "study", "--preset", "tiny", "--notebooks", source, "--results", tmp_path / "results"
        )
    assert done.exit_code == 0 and "1 runs are another process's just now" in done.output
    assert naps[0] == cli.WAIT and not sweep.pending(experiments.all_runs("tiny"), store.folder)


@pytest.mark.slow
def test_a_finished_notebook_survives_the_failure_of_its_rerun(tiny_study, tmp_path):
    broken(tmp_path, "1_good", "pass")
    words = notebooks_of(tmp_path, tmp_path / "results")
    assert dli(*words).exit_code == 0
    broken(tmp_path, "1_good", "1 / 0")
    assert dli(*words).exit_code == 1
    assert (
        printed(tmp_path / "results" / "tiny" / "notebooks" / "1_good.ipynb")
        == "begun tiny\nended\n"
    )


@pytest.mark.slow
def test_a_notebook_whose_process_is_killed_is_alone_and_redone(tiny_study, tmp_path):
    source = tmp_path / "notebooks"
    source.mkdir()
    for name in ("1_killer", "2_good"):
        broken(source, name, "pass")
    words = notebooks_of(source, tmp_path / "results")
    made = tmp_path / "results" / "tiny" / "notebooks"
    broken(source, "1_killer", "import os; os.kill(os.getppid(), 9)")
    message = str(dli(*words).exception)
    assert "1 of 2 notebooks failed" in message and "1_killer.ipynb: BrokenProcessPool" in message
    assert sorted(p.name for p in made.iterdir()) == ["1_killer.failed.ipynb", "2_good.ipynb"]
