"""What is drawn and told of the runs that chose a preset's schedule."""

from dataclasses import asdict, replace

import matplotlib.pyplot as plt
import pytest

from dlilib.analysis import figures, report, tables
from dlilib.study import presets
from dlilib.training.run import Run
from dlilib.training.store import Store
from dlilib.training.trainer import CURVE_POINTS, thin

BASE = Run(size=96, batch=8, free_share=0.2)


def curve(epochs):
    """A record of two classes of 100 and 10 pixels, of which ever more and ever fewer are found."""
    counts = [[[min(k, 100), 0], [0, k]] for k in range(1, epochs + 1)]
    last = [[counts[-1][0][0], 0, 100 - counts[-1][0][0]], [0, epochs, 10]]
    run = replace(BASE, epochs=epochs)
    moment = {
        "epoch": epochs,
        "iou": last[0][0] / (110 + epochs),
        "classes": last,
        "images": [[0, 0, 0]],
    }
    return {
        "id": run.id,
        "run": asdict(run),
        "machine": {"device": "CPU", "precision": "fp32"},
        "seconds": 90.0,
        "data": {"classes": ["crack", "hole"], "train": [50, 20, 10]},
        "positives": 110,
        "history": {
            "tp": [crack[0] for crack, _ in counts],
            "fp": [hole[1] for _, hole in counts],
            "classes": thin(counts, CURVE_POINTS),
        },
        "val_images": [0],
        "val_tiles": [0],
        "best": moment,
        "last": moment,
    }


@pytest.mark.parametrize("epochs", [1, 2, 14, 15, 16, 29, 30, 31, 40, 80, 100])
def test_a_curve_has_its_points_where_they_were_measured(epochs):
    found = tables.learning_curve(curve(epochs))
    images = 50 * 0.2 + 30  # of an epoch
    everything = found[found["what"] == "all classes"]
    assert everything["images"].tolist() == [images * k for k in range(1, epochs + 1)]
    assert everything["IoU"].tolist() == pytest.approx(
        [k / (110 + k) for k in range(1, epochs + 1)]
    )
    crack, hole = (found[found["what"] == name] for name in ("crack", "hole"))
    assert crack["IoU"].tolist() == pytest.approx((crack["images"] / images / 100).tolist())
    assert (hole["IoU"] == 0).all()
    assert crack["images"].iloc[0] == images and crack["images"].iloc[-1] == images * epochs


def test_a_record_from_before_curves_of_classes_has_its_last_epoch():
    made = curve(10)
    del made["history"]["classes"]
    found = tables.learning_curve(made)
    assert found.groupby("what", sort=False).size().to_dict() == {
        "all classes": 10,
        "crack": 1,
        "hole": 1,
    }
    assert found.loc[found["what"] == "crack", "IoU"].item() == 0.1


def test_figure_has_a_panel_for_each_class_and_a_line_a_run():
    axes = figures.learning_curves({"short": curve(10), "long": curve(40)})
    assert [ax.get_title("left") for ax in axes] == ["all classes", "crack", "hole"]
    assert [len(ax.lines) for ax in axes] == [3, 2, 2]  # the first also has the paper's mark
    assert axes[0].figure.get_suptitle() == "No finished run finds 1 of 2 classes: hole"
    legend = axes[0].figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["short", "long"]
    plt.close("all")


def test_figure_states_which_class_is_found_last():
    made = curve(40)
    made["history"]["classes"] = [[[k, 0], [k // 20, 0]] for k in range(1, 41)]
    made["last"]["classes"] = [[40, 0, 60], [2, 0, 8]]
    figure = figures.learning_curves({"a": made})[0].figure
    said = "Each class is found by some run: hole last, within 800 images"  # 20 epochs of 40 images
    assert figure.get_suptitle() == said
    plt.close("all")


def test_class_without_a_pixel_to_find_has_no_curve():
    made = curve(10)
    made["last"]["classes"][1] = [0, 10, 0]
    found = tables.learning_curve(made).groupby("what", sort=False)["IoU"]
    assert found.count().to_dict() == {"all classes": 10, "crack": 11, "hole": 0}
    axes = figures.learning_curves({"a": made, "b": made})
    assert [[t.get_text() for t in ax.texts] for ax in axes[1:]] == [[], ["–"]]
    axes = figures.learning_curves({"a": made, "b": curve(10)})
    assert not any(ax.texts for ax in axes[1:])
    plt.close("all")


def test_table_tells_finished_runs_and_pending_ones(tmp_path, monkeypatch):
    pilot = (replace(BASE, epochs=10), replace(BASE, epochs=40))
    monkeypatch.setitem(presets.PRESETS, "lite", replace(presets.PRESETS["lite"], pilot=pilot))
    made = curve(40)
    Store(tmp_path / "lite").finish(replace(BASE, epochs=40), made)
    table = tables.pilot_table("lite", tmp_path / "lite")
    assert table["micro IoU"].tolist() == ["pending", f"{40 / 150:.3f}"]
    told = table.iloc[1]
    assert (told["images"], told["steps"], told["minutes"]) == (1600, 200, 2)
    assert (told["crack"], told["hole"], told["machine"]) == ("0.400", "0.000", "CPU; fp32")
    made["best"]["classes"][1] = [0, 40, 0]
    made["last"] = made["last"] | {"iou": float("nan")}  # as training keeps it
    Store(tmp_path / "other").finish(replace(BASE, epochs=40), made)
    told = tables.pilot_table("lite", tmp_path / "other").iloc[1]
    assert (told["crack"], told["hole"], told["last"]) == ("0.400", "–", "–")
    assert len(tables.pilot_table("smoke", tmp_path)) == 0
    text = report.report(tmp_path)
    assert "No run of its grid is finished" in text and "### Pilot" in text
