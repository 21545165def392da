import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from builders import record

from dlilib.analysis import few_shot, figures
from dlilib.study import experiments, presets
from dlilib.training.store import Store

WAY, PART = (f"{name} (all but plain, DLI: our interpretation)" for name in ("variant", "part"))


@pytest.fixture
def folder(tmp_path):
    """Seeds 0 and 1 with one shot: crop-and-paste 0.3 over plain, NBR 0.1 below that.

    By class: all in the first; three are missed; the last one has no pixel to find, though some are
    falsely marked. Everything else is pending.
    """
    found = {"plain": 4, "crop-and-paste": 7, "crop-and-paste, NBR": 6, "DLI": 8, "DLI, NBR": 7}
    for way, right in found.items():
        for run in experiments.experiment(
            "few_shot", "lite", seeds=[0, 1], shots=[1], variants=[way]
        ):
            counts = [[right * 10 + run.seed, 100 - right * 10 - run.seed, 0]] * 4
            classes = [np.sum(counts, axis=0).tolist(), *[[0, 0, 9]] * 3, [0, 5, 0]]
            made = record(run, counts, classes=classes) | {
                "features": {"auroc": 0.9, "normal": [[0, 1]] * 5, "defect": [[1, 0]] * 3}
            }
            Store(tmp_path).finish(run, made)
    return tmp_path


def test_every_planned_run_has_a_row_and_finished_ones_their_last_epoch(folder):
    frame = few_shot.runs("lite", folder)
    assert len(frame) == len(experiments.experiment("few_shot", "lite")) == 48
    assert frame["record"].notna().sum() == 10
    row = frame[
        (frame["variant"] == "plain") & (frame["shots"] == 1) & (frame["seed"] == 1)
    ].squeeze()
    assert (
        row["iou"] == pytest.approx(0.41)
        and row["class_iou"] == pytest.approx(0.41 / 4)
        and row["auroc"] == 0.9
    )
    assert row["run"].shots == 1 and row["run"].method == "baseline"


def test_table_has_a_row_for_each_way_and_pending_ones_say_so(folder):
    table = (
        few_shot.table(few_shot.runs("lite", folder))
        .set_index(["shots", WAY])
        .drop(columns="encoder")
    )
    assert len(table) == 16 and list(table.index[:8]) == [(1, way) for way in presets.FEW_SHOT]
    assert table.loc[(1, "plain"), "micro IoU"].startswith("0.405 [0.341, 0.469] (n = 2)")
    assert table.loc[(1, "plain"), "mean class IoU"].startswith("0.101 [")
    assert (table.loc[5] == "pending").all(axis=None)


def test_each_part_is_what_its_ways_gain_over_the_same_ones_without_it(folder):
    table = (
        few_shot.gains(few_shot.runs("lite", folder))
        .set_index(["shots", PART])
        .drop(columns="encoder")
    )
    assert list(table.loc[1].index) == list(table.loc[5].index) == list(few_shot.PARTS)
    pasted, dli = table.loc[(1, "crop-and-paste")], table.loc[(1, "DLI instead of crop-and-paste")]
    assert pasted["gain in micro IoU"] == "0.300 [0.300, 0.300] (n = 2): helps"
    assert dli["gain in micro IoU"] == "0.100 [0.100, 0.100] (n = 2): helps"
    assert pasted["gain in mean class IoU"].startswith("0.075 [")
    assert pasted["gain in AUROC of features"].startswith("0.000 [")
    assert (table.loc[[(1, "NBR"), (1, "all three"), (5, "NBR")]] == "pending").all(axis=None)


def test_a_parts_ways_are_pooled(folder):
    others = ["NBR", "crop-and-paste, weighted BCE", "crop-and-paste, weighted BCE, NBR"]
    for run in experiments.experiment("few_shot", "lite", seeds=[0, 1], shots=[1], variants=others):
        counts = [[40, 60, 0]] * 4 if run.nbr else [[50, 150, 0]] * 4
        made = record(run, counts) | {
            "features": {"auroc": 1.0 if run.nbr else 0.7, "normal": [], "defect": []}
        }
        Store(folder).finish(run, made)
    table = (
        few_shot.gains(few_shot.runs("lite", folder))
        .set_index(["shots", PART])
        .drop(columns="encoder")
    )
    # With NBR 40 + 60 + 40 + 70, without 40 + 70 + 50 + 80; seed 1 one more in each variant that
    # `folder` made.
    by_seed = [210 / 400 - 240 / 500, 212 / 400 - 243 / 500]
    assert table.loc[(1, "NBR"), "gain in micro IoU"].startswith(f"{np.mean(by_seed):.3f} [")
    assert (
        table.loc[(1, "NBR"), "gain in AUROC of features"] == "0.100 [0.100, 0.100] (n = 2): helps"
    )
    weighted, whole = (
        table.loc[(1, part), "gain in micro IoU"] for part in ("weighted BCE", "all three")
    )
    assert weighted.startswith("-0.355 [") and weighted.endswith(
        "hurts"
    )  # 90 / 300 less 130 / 200, or 132 / 200
    assert whole.startswith("-0.005 [") and whole.endswith("undecided")


def test_parts_pair_ways_that_are_run_and_differ_in_that_part_alone():
    for part, (ours, theirs) in ((n, (p.on, p.off)) for n, p in few_shot.PARTS.items()):
        assert {*ours, *theirs} <= set(presets.FEW_SHOT)
        if part in ("weighted BCE", "NBR"):
            assert (
                tuple("plain" if way == part else way.replace(f", {part}", "") for way in ours)
                == theirs
            )


def test_gains_where_nothing_is_found_are_not_measurable(tmp_path):
    for way, right in {"plain": 2, "crop-and-paste": 4, "DLI": 30}.items():
        for run in experiments.experiment(
            "few_shot", "lite", seeds=[0, 1], shots=[1], variants=[way]
        ):
            made = record(run, [[right, 100 - right, 0]] * 4) | {
                "features": {"auroc": 0.5 + right / 100}
            }
            Store(tmp_path).finish(run, made)
    table = few_shot.gains(few_shot.runs("lite", tmp_path)).set_index(["shots", PART])
    pasted, dli = table.loc[(1, "crop-and-paste")], table.loc[(1, "DLI")]
    assert pasted["gain in micro IoU"].endswith("(n = 2): not measurable")
    assert pasted["gain in AUROC of features"].endswith("helps") and dli[
        "gain in micro IoU"
    ].endswith("helps")


def test_runs_without_a_defect_to_find_have_no_score(tmp_path):
    for variant in ("plain", "crop-and-paste"):
        for run in experiments.experiment(
            "few_shot", "lite", seeds=[0, 1], shots=[1], variants=[variant]
        ):
            nothing = record(run, [[0, 7, 0]] * 4) | {"features": {"auroc": 0.5}}
            nothing["last"]["iou"] = float("nan")  # as training keeps it
            Store(tmp_path).finish(run, nothing)
    frame = few_shot.runs("lite", tmp_path)
    scores = ["micro IoU", "mean class IoU"]
    table = few_shot.table(frame).set_index(["shots", WAY])[scores]
    assert (table.loc[(1, "plain")] == "–").all() and (table.loc[(1, "DLI")] == "pending").all()
    gains = few_shot.gains(frame).set_index(["shots", PART]).filter(like="IoU")
    assert (gains.loc[(1, "crop-and-paste")] == "–").all()
    assert (gains.loc[(1, "DLI")] == "pending").all()


def test_figures_show_every_run(folder):
    frame = few_shot.runs("lite", folder)
    ax = figures.few_shot(frame)
    dots = np.concatenate([c.get_offsets() for c in ax.collections])
    shown = sorted(dots[~np.isnan(dots[:, 0]), 0])
    assert shown == pytest.approx([0.4, 0.41, 0.6, 0.61, 0.7, 0.7, 0.71, 0.71, 0.8, 0.81])
    assert ax.get_title("left") == "Highest mean IoU: DLI at 1 shot (0.805)"
    assert "n ≤ 2 seeds" in ax.get_xlabel()
    assert [t.get_text() for t in ax.texts].count("5 shots: pending") == 8
    records = (
        frame.dropna(subset="record").drop_duplicates("variant").set_index("variant")["record"]
    )
    axes = figures.feature_planes(records.to_dict())
    assert len(axes) == 5 and "0.900" in axes[0].get_title("left")
    records["DLI"] = records["DLI"] | {"features": records["DLI"]["features"] | {"auroc": 0.95}}
    title = figures.feature_planes(records.to_dict())[0].figure.get_suptitle()
    assert title.replace("\n", " ").endswith("AUROC from 0.900 (plain) to 0.950 (DLI)")
    plt.close("all")


def test_finding_groups_parts_by_what_they_do():
    part, gain = f"part ({few_shot.INTERPRETATION})", "gain in micro IoU"
    added = pd.DataFrame(
        [
            ("resnet18", 1, "NBR", "0.100 [0.050, 0.150] (n = 3): helps"),
            ("resnet18", 1, "DLI", "0.010 (n = 1): undecided"),
            ("resnet18", 1, "all three", "0.200 [0.100, 0.300] (n = 3): helps"),
            ("resnet18", 5, "NBR", "pending"),
        ],
        columns=["encoder", "shots", part, gain],
    )
    assert few_shot.finding(added).splitlines() == [
        "resnet18, 1 annotated image a class: helps: NBR, all three; undecided: DLI.",
        "resnet18, 5 annotated images a class: not measured yet.",
    ]


def test_records_shown_are_of_the_first_seed_and_most_shots(folder):
    frame = few_shot.runs("short", folder)
    assert few_shot.records_shown(frame, ("no such variant",)) == {}
    frame["record"] = [{"of": (row.variant, row.shots, row.seed)} for row in frame.itertuples()]
    found = few_shot.records_shown(frame, ("DLI", "plain"))
    seed, shots = frame["seed"].iloc[0], frame["shots"].max()
    assert list(found) == ["DLI", "plain"]
    assert found["DLI"]["of"] == ("DLI", shots, seed)
