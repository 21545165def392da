import matplotlib.pyplot as plt
import numpy as np
import pytest
from test_claims import record

from dlilib import few_shot, figures, study
from dlilib.store import Store


@pytest.fixture
def folder(tmp_path):
    """Seeds 0 and 1 with one shot: crop-and-paste 0.3 over plain, NBR 0.1 below that; everything else pending."""
    found = {"plain": 4, "crop-and-paste": 7, "crop-and-paste, NBR": 6}
    for way, right in found.items():
        for run in study.experiment("few_shot", "lite", shots=[1], ways=[way]):
            counts = [[right * 10 + run.seed, 100 - right * 10 - run.seed, 0]] * 4
            made = record(run, counts) | {"features": {"auroc": 0.9, "normal": [[0, 1]] * 5, "defect": [[1, 0]] * 3}}
            Store(tmp_path).finish(run, made)
    return tmp_path


def test_every_planned_run_has_a_row_and_finished_ones_their_last_epoch(folder):
    frame = few_shot.runs("lite", folder)
    assert len(frame) == len(study.experiment("few_shot", "lite")) == 28
    assert frame["record"].notna().sum() == 6
    row = frame[(frame["way"] == "plain") & (frame["shots"] == 1) & (frame["seed"] == 1)].squeeze()
    assert row["iou"] == pytest.approx(0.41) and row["class_iou"] == pytest.approx(0.41 / 5) and row["auroc"] == 0.9
    assert row["run"].shots == 1 and row["run"].method == "baseline"


def test_table_compares_each_way_with_the_one_without_its_last_part(folder):
    table = few_shot.table(few_shot.runs("lite", folder)).set_index(["shots", "way"])
    assert len(table) == 14 and list(table.index[:7]) == [(1, way) for way in study.FEW_SHOT]
    pasted, nbr = table.loc[(1, "crop-and-paste")], table.loc[(1, "crop-and-paste, NBR")]
    assert (pasted["over"], pasted["so it"]) == ("plain", "helps") and pasted["gain in micro IoU"].startswith("0.300 [")
    assert (nbr["over"], nbr["so it"]) == ("crop-and-paste", "hurts") and nbr["gain in micro IoU"].startswith("-0.100")
    assert table.loc[(1, "plain")]["over"] == "" and table.loc[(1, "DLI")]["so it"] == "pending"
    assert (table.loc[5]["micro IoU"] == "pending").all()


def test_every_way_but_plain_adds_to_one_that_is_run():
    assert set(few_shot.OVER) == set(study.FEW_SHOT) - {"plain"} and set(few_shot.OVER.values()) <= set(study.FEW_SHOT)


def test_figures_show_every_run(folder):
    frame = few_shot.runs("lite", folder)
    ax = figures.few_shot(frame)
    dots = np.concatenate([c.get_offsets() for c in ax.collections])
    assert sorted(dots[~np.isnan(dots[:, 0]), 0]) == pytest.approx([0.4, 0.41, 0.6, 0.61, 0.7, 0.71])
    records = frame.dropna(subset="record").drop_duplicates("way").set_index("way")["record"]
    axes = figures.feature_planes(records.to_dict())
    assert len(axes) == 3 and "0.900" in axes[0].get_title()
    plt.close("all")
