"""The questions of a referee, on records whose answers are known."""

from dataclasses import replace

import numpy as np
import pytest
from builders import record

from dlilib.analysis import referee
from dlilib.study import presets
from dlilib.training.store import Store

LITE = presets.PRESETS["lite"]
BASE = LITE.base


def classes_of(*found):
    """Counts of five classes of 10 pixels each, of which so many are found."""
    return [[n, 0, 10 - n] for n in found]


def keep(store, run, best, last=None):
    """Keep a record whose images 1 to 5 show a class each; best, last: pixels found of each."""
    counts, after = classes_of(*best), classes_of(*(last or best))
    found = record(run, counts, tiles=(1, 2, 3, 4, 5), classes=counts)
    found["data"]["train"] = [50, 20, 10, 10, 10, 10]
    found["last"] = {
        "epoch": run.epochs,
        "iou": sum(row[0] for row in after) / 50,
        "classes": after,
        "images": after,
    }
    store.finish(run, found)


@pytest.fixture
def folder(tmp_path):
    """Three seeds of DLI, which finds Break better, and of the baseline; one of them by tile."""
    store = Store(tmp_path)
    for seed in (0, 1, 2):
        keep(store, replace(BASE, seed=seed), (0, 9, 0, 8, 8), (0, 7, 0, 8, 8))
        plain = replace(BASE, seed=seed, method="baseline")
        keep(store, plain, (0, 4 + seed, 0, 8, 8), (0, 3 + seed, 0, 8, 8))
    keep(store, replace(BASE, split="tile"), (0, 1, 0, 4, 5))
    return tmp_path


def test_what_the_epoch_and_the_leak_add(folder):
    found = referee.flattery("lite", folder).set_index("method")
    assert found.loc["dli", "best less last epoch"] == "0.040 [0.040, 0.040] (n = 3)"
    assert found.loc["dli", "paper's split less tile-disjoint, last epoch"] == "0.260 (n = 1)"
    baseline = found.loc["baseline"]
    assert baseline["best less last epoch"] == "0.020 [0.020, 0.020] (n = 3)"
    assert baseline["paper's split less tile-disjoint, last epoch"] == "pending"
    assert set(found.loc["wce"]) == {"pending"}
    lead = found.loc["dli less baseline"]
    assert lead.tolist() == [
        "0.080 [0.000, 0.260] (n = 3)",  # over parts, too: of five, one decides
        "0.020 [0.020, 0.020] (n = 3)",
        "pending",
    ]


def test_means_are_cut_at_what_an_iou_can_be_and_differences_are_not(tmp_path):
    store = Store(tmp_path)
    for seed, found in ((0, 10), (1, 1)):
        keep(store, replace(BASE, seed=seed), (found,) * 5, (0,) * 5)
    row = referee.flattery("lite", tmp_path).set_index("method").loc["dli"]
    assert row["paper's protocol"] == "0.550 [0.000, 1.000] (n = 2)"
    assert row["best less last epoch"] == "0.550 [-5.168, 6.268] (n = 2)"


def test_split_that_is_not_planned_is_not_pending(tmp_path):
    (tmp_path / "records").mkdir()
    found = referee.flattery("smoke", tmp_path)
    assert set(found["paper's split less tile-disjoint, last epoch"]) == {"not planned"}


def test_epoch_chosen_for_all_classes_is_not_that_of_each(folder):
    found = referee.chosen("lite", folder)
    assert found["split"].tolist() == ["the paper's split"] * 2 + ["tile-disjoint"]
    assert found["best epoch"].unique().tolist() == ["1 of 160"]
    found = found[:2].set_index("method")
    assert found["n"].to_dict() == {"baseline": 3, "dli": 3}
    assert found["Break"].to_dict() == {"baseline": "0.500 → 0.400", "dli": "0.900 → 0.700"}
    assert found["Fray"].to_dict() == {"baseline": "0.800 → 0.800", "dli": "0.800 → 0.800"}


def test_class_that_a_seed_does_not_have_is_in_no_mean(folder):
    store, run = Store(folder), replace(BASE, seed=0)
    found = store.record(run)
    for moment in ("best", "last"):
        found[moment]["classes"][1] = [0, 0, 0]
        found[moment]["iou"] = sum(row[0] for row in found[moment]["classes"]) / 40
    store.finish(run, found)
    chosen = referee.chosen("lite", folder).set_index(["split", "method"])
    assert chosen.loc[("the paper's split", "dli"), "Break"] == "0.900 → 0.700"  # of two seeds


def test_class_that_carries_the_lead(folder):
    found = referee.carried("lite", folder).set_index("class")
    # Break gains 5, 4 and 3 of its 10 pixels, which are 5, 4 and 3 of all 50
    assert found.loc["Break"].tolist() == [
        "0.400 [0.152, 0.648] (n = 3)",
        "0.080 [0.030, 0.130] (n = 3)",
    ]
    assert found.loc["Uneven"].tolist() == ["0.000 [0.000, 0.000] (n = 3)"] * 2


def test_runs_twice_as_long_stand_beside_the_others(folder):
    store = Store(folder)
    short = next(run for run in LITE.pilot if (run.size, run.epochs) == (128, 80))
    keep(store, short, (0, 9, 0, 8, 8))
    assert referee.doubled("lite", folder)["Break"].tolist() == ["0.900 → 0.900"]
    keep(store, replace(short, epochs=320), (5, 9, 2, 8, 8))
    found = referee.doubled("lite", folder)
    # 160 epochs are the preset's own
    assert found["images seen"].tolist() == ["5,600 → 11,200", "11,200 → 22,400"]
    assert found["Blowhole"].tolist() == ["0.000 → 0.000", "0.000 → 0.500"]
    assert found["all classes"].tolist() == ["0.500 → 0.500", "0.500 → 0.640"]
    # the change itself and no word for its size: leads are as small
    assert referee.in_words("lite", folder)[0] == (
        "**Long enough?** Two dli runs, one twice as long (11,200 → 22,400 images; "
        "the authors' code: 1,264,000): micro IoU 0.500 → 0.640; only the longer finds Blowhole "
        "(0.000 → 0.500) and Crack (0.000 → 0.200), within its first 22,400 images."
    )
    keep(store, replace(short, epochs=160, decoder_convs=4), (0, 9, 0, 9, 8))
    first, *_ = referee.in_words("lite", folder)
    assert first.endswith(" With the authors' decoder, one run of 160 epochs: 0.500 → 0.520.")


def test_simulated_studies_take_the_measured_deviation(folder):
    found = referee.held("lite", folder).set_index("validation")
    # of five parts, one decides: which are drawn moves the difference more than a run does
    assert found.loc["the same parts each seed", "spread"].unique().tolist() == ["0.020 (measured)"]
    (of_parts,) = found.loc["other parts each seed", "spread"].unique()
    assert of_parts.endswith("(its parts)") and float(of_parts.split()[0]) > 0.05
    assert found["protocol"].unique().tolist() == ["paper's protocol"]  # no pair on the other
    assert found["seeds"].unique().tolist() == [3, 5] and (found["parts"] == 5).all()


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_few_seeds_take_the_papers_deviation(tmp_path, seeds):
    for seed in seeds:
        for method, found in (("dli", 9), ("baseline", 4)):
            keep(
                Store(tmp_path), replace(BASE, method=method, seed=seed), (0, found, 0, 8, 8 + seed)
            )
    found = referee.held("lite", tmp_path).set_index("validation")
    assert found.loc["the same parts each seed", "spread"].unique().tolist() == ["0.027 (paper)"]


def test_the_audits_split_is_simulated_at_the_audits_epoch(tmp_path):
    runs = [replace(BASE, split="tile", method=method) for method in ("dli", "baseline")]
    keep(Store(tmp_path), runs[0], (0, 9, 0, 8, 8), (0, 5, 0, 8, 8))
    keep(Store(tmp_path), runs[1], (0, 5, 0, 8, 8))
    found = referee.held("lite", tmp_path).set_index("validation")
    assert found["protocol"].unique().tolist() == ["tile-disjoint, last epoch"]
    # at the last epoch the two are alike on every part, so that parts bring nothing
    assert found["spread"].unique().tolist() == ["0.027 (paper)"]


def test_lead_in_each_quarter_of_the_schedule(tmp_path):
    store = Store(tmp_path)
    for seed, late in ((0, 30), (1, 40)):
        for method, tp in (("dli", [40] * 40 + [late] * 120), ("baseline", [30] * 160)):
            run = replace(BASE, method=method, seed=seed)
            keep(store, run, (10, 10, 10, 0, 0))
            store.finish(run, store.record(run) | {"history": {"tp": tp, "fp": [0] * 160}})
    (row,) = referee.by_quarter("lite", tmp_path).to_dict("records")
    assert row == {
        "split": "the paper's split",
        "1 to 40": "0.200 [0.200, 0.200] (n = 2)",
        **dict.fromkeys(("41 to 80", "81 to 120", "121 to 160"), "0.100 [-1.000, 1.000] (n = 2)"),
    }
    (words,) = [w for w in referee.in_words("lite", tmp_path) if w.startswith("**Faster")]
    assert words.endswith("(†: decided): 0.200†, 0.100, 0.100, 0.100 (the paper's split, n = 2).")


def test_runs_of_a_few_epochs_have_fewer_quarters():
    found = referee.quarters([(0, np.array([0.1, 0.2, 0.3]))])
    assert {name: lead.mean for name, lead in found.items()} == {
        "1 to 1": 0.1,
        "2 to 2": 0.2,
        "3 to 3": 0.3,
    }


def test_words_say_what_the_tables_say(folder):
    words = "\n".join(referee.in_words("lite", folder))
    assert "over the baseline, 0.080 [0.000, 0.260] (n = 3), the choice of the epoch adds" in words
    assert (
        "adds 0.020 [0.020, 0.020] (n = 3) and the split pending. Mean best epoch of all "
        "methods: 1 (tile-disjoint 1)." in words
    )
    assert "class: Blowhole 0.000, Break 0.080, Crack 0.000, Fray 0.000 and Uneven 0.000" in words
    assert "(n = 3; Break decided)." in words
    # the paper: 0.780 ± 0.016 beside 0.746 ± 0.018; here ± 0.02
    assert "so many seeds or more (it has 5, `lite` 3): baseline 8, focal 6," in words
    assert "With our spread (95 % interval): baseline 5 (3 to 110)." in words


def test_spread_of_two_seeds_is_not_counted_with(tmp_path):
    for seed in (0, 1):
        keep(Store(tmp_path), replace(BASE, seed=seed), (0, 9, 0, 8, 8))
        keep(Store(tmp_path), replace(BASE, seed=seed, method="baseline"), (0, 4 + seed, 0, 8, 8))
    assert "measured here" not in referee.in_words("lite", tmp_path)[-1]
    found = referee.decided("lite", tmp_path).set_index("claim").loc["DLI beats baseline"]
    assert (found["seeds by it"], found["our deviation"], found["seeds by ours"]) == ("8", "–", "–")


def test_hours_are_those_of_the_fastest_machine(tmp_path):
    store = Store(tmp_path)
    took = {("dli", 0): ("A", 7200.0), ("dli", 1): ("B", 3600.0), ("baseline", 1): ("B", 1800.0)}
    for (method, seed), (device, seconds) in took.items():
        run = replace(BASE, method=method, seed=seed)
        keep(store, run, (0, 9, 0, 8, 8))
        changed = {"machine": {"device": device}, "seconds": seconds}
        store.finish(run, store.record(run) | changed)
    assert referee.in_words("lite", tmp_path)[-1].endswith("takes 1.5 hours on B.")


def test_words_name_the_classes_that_longer_runs_lose(folder):
    store = Store(folder)
    short = next(run for run in LITE.pilot if (run.size, run.epochs) == (128, 80))
    keep(store, short, (5, 9, 0, 8, 8))
    words = referee.in_words("lite", folder)[0]
    assert words.endswith(
        "0.600 → 0.500; only the shorter finds Blowhole (0.500 → 0.000), within its first 5,600 "
        "images."
    )


def test_without_records_only_the_paper_speaks(tmp_path):
    (tmp_path / "records").mkdir()
    (words,) = referee.in_words("lite", tmp_path)
    assert words.startswith("**What would decide?**")
    assert "measured here" not in words and "hours" not in words
    for table in (referee.doubled, referee.chosen, referee.carried, referee.held):
        assert table("lite", tmp_path).empty
