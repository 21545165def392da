import shutil
import subprocess
import sys

import pandas as pd
import pytest
from typer.testing import CliRunner

from dlilib import study
from dlilib.cli import _seconds, app
from dlilib.run import Run


def dli(*words):
    return CliRunner().invoke(app, [str(w) for w in words])


@pytest.fixture
def tiny_study(monkeypatch):
    base = Run(data="toy", size=32, weights=None, epochs=2, batch=16, free_share=0.0)
    tiny = study.Preset("tiny", base, "tiny", ("resnet18",), (0,), (1.0,), "resnet18", ("image",), False, ())
    monkeypatch.setitem(study.PRESETS, "tiny", tiny)


def test_data_prints_the_counts(magnetic_root):
    result = dli("data", "magnetic-tiles", "--root", magnetic_root)
    assert result.exit_code == 0
    assert "115/85/57/32/103/952" in result.output


def test_run_stops_at_the_budget_and_status_tells(tiny_study, tmp_path):
    runs = study.all_runs("tiny")
    assert "duration unknown" in dli("status", "--preset", "tiny", "--results", tmp_path).output
    none = dli("run", "--preset", "tiny", "--results", tmp_path, "--budget", "0s")
    assert f"0 of {len(runs)} runs finished" in none.output
    one = dli("run", "--preset", "tiny", "--results", tmp_path, "--match", "baseline")
    assert "1 of 1 runs finished, 0 pending" in one.output
    status = dli("status", "--preset", "tiny", "--results", tmp_path).output
    assert f"1 of {len(runs)} runs finished, {len(runs) - 1} pending; about 0 min for {len(runs) - 1}" in status
    assert status.count("pending") == len(runs)  # a line each, and the sum


@pytest.mark.parametrize(("text", "seconds"), [("", None), ("90s", 90), ("9m", 540), ("1.5h", 5400), ("20", 20)])
def test_budget_in_words(text, seconds):
    assert _seconds(text) == seconds


@pytest.mark.parametrize(
    "words",
    [("data", "imagenet"), ("data", "folder"), ("run", "--budget", "soon"), ("run", "--match", "nothing-like-it"),
     ("status", "--match", "nothing-like-it"), ("report", "--notebooks", "/no/such/folder"),
     ("study", "--only", "no-such-notebook")],
)
def test_wrong_words_are_a_usage_error(words):
    assert dli(*words).exit_code == 2


BAD_ROOT = ("data", "magnetic-tiles", "--root", "/no/such/folder")


@pytest.mark.parametrize("words", [BAD_ROOT, ("status", "--preset", "huge")])
def test_user_errors_are_one_line(words):
    result = subprocess.run([sys.executable, "-m", "dlilib", *words], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("dli: ")
    assert "Traceback" not in result.stderr


def test_speed_writes_and_prints_its_tables(tmp_path, monkeypatch):
    table = pd.DataFrame({"what": ["dlilib"], "ms": [1.5]})
    monkeypatch.setattr("dlilib.cli.magnetic_tiles", lambda root: None)
    monkeypatch.setattr("dlilib.cli.timings", lambda tiles, device, src, root: [("blending", table)])
    shown = dli("speed", "--device", "cpu", "--results", tmp_path)
    written = pd.read_csv(tmp_path / "tables" / "speed_blending_cpu.csv")
    assert written["ms"][0] == 1.5 and written["device"][0].startswith("CPU") and "speed_blending" in shown.output


def test_report_writes_the_results_page(tmp_path):
    shutil.copytree("results/lite/records", tmp_path / "lite" / "records")
    assert dli("report", "--results", tmp_path).exit_code == 0
    assert "do not edit" in (tmp_path / "README.md").read_text()


def test_report_without_records_is_refused(tmp_path):
    result = dli("report", "--results", tmp_path)
    assert isinstance(result.exception, ValueError) and "no records" in str(result.exception)
    assert not list(tmp_path.iterdir())
