"""What figures state is computed from what they show, and can be read."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from dlilib.analysis import dataset, figures
from dlilib.analysis.figures.style import WIDTH
from dlilib.losses import METHODS

CLASSES = ["crack", "hole", "fray"]
PAPER = {"baseline": 0.746, "focal": 0.658, "balanced": 0.723, "wce": 0.741, "dli": 0.780}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def words(text):
    """A title or label without its line breaks."""
    return " ".join(text.split())


def title(ax):
    return words(ax.get_title("left") or ax.figure.get_suptitle())


def finished(iou, seeds=(0,), encoder="resnet18", data="magnetic_tiles", split="image"):
    """Records of runs: method -> IoU of all classes and of each."""
    columns = ["iou_best", *[f"iou_{name}" for name in CLASSES]]
    rows = [
        {"method": method, "seed": seed, **dict(zip(columns, values, strict=True))}
        for method, values in iou.items()
        for seed in seeds
    ]
    return pd.DataFrame(rows).assign(encoder=encoder, data=data, split=split)


BOTH = {"baseline": [0.7, 0.5, 0.6, 0.2], "dli": [0.8, 0.6, 0.9, 0.1]}


def bars_at(ax):
    """The bars' heights, from left to right."""
    bars = sorted(ax.patches, key=lambda bar: bar.get_x())
    return [round(bar.get_height(), 3) for bar in bars]


def marks(ax):
    """The paper's diamonds, from left to right: place, height and the ends of the error bar."""
    found = []
    for container in ax.containers:
        line, _, ends = getattr(container, "lines", (None, None, None))
        if line is not None and line.get_marker() == "D":
            (x,), (y,) = line.get_data()
            low, high = ends[0].get_segments()[0][:, 1]
            found.append((x, y, low, high))
    return sorted(found)


@pytest.mark.parametrize(
    ("iou", "seeds", "said"),
    [
        (BOTH, [0], "DLI has the highest IoU in 2 of 3 classes, of 2 finished methods"),
        (BOTH, [0, 1], "DLI has the highest mean IoU in 2 of 3 classes, of 2 finished methods"),
        (
            {"dli": [0.8, 0.19, 0.84, 0.5]},
            [0],
            "DLI alone is finished: IoU from 0.19 (crack) to 0.84 (hole)",
        ),
        (  # hole is nowhere to find; fray is a tie
            {"baseline": [0.7, 0.5, np.nan, 0.2], "dli": [0.8, 0.6, np.nan, 0.2]},
            [0],
            "DLI has the highest IoU in 1 of 2 classes, of 2 finished methods",
        ),
        (
            {"baseline": [0.7, 0.5, 0.6, 0.2], "wce": [0.8, 0.6, 0.9, 0.1]},
            [0],
            "WCE has the highest IoU in 2 of 3 classes, of 2 finished methods",
        ),
        (
            {method: [0.2 if method == "dli" else 0.1] * 4 for method in METHODS},
            [0],
            "DLI has the highest IoU in 3 of 3 classes",
        ),
    ],
)
def test_figure_3_states_who_is_best(iou, seeds, said):
    assert title(figures.class_iou_bars(finished(iou, seeds), CLASSES)) == said


def test_figure_3_says_who_is_best_over_the_seeds_that_all_have():
    both = finished({"baseline": [0.7] * 4, "dli": [0.6] * 4}, seeds=[0])
    frame = pd.concat([both, finished({"baseline": [0.1] * 4}, seeds=[1])])
    said = "DLI has the highest IoU in 0 of 3 classes, of 2 finished methods"
    ax = figures.class_iou_bars(frame, CLASSES)
    assert title(ax) == f"{said}, over the 1 seed that all have"
    alone = frame[(frame["method"] == "dli") | (frame["seed"] == 1)]
    ax = figures.class_iou_bars(alone, CLASSES)
    assert title(ax) == "No seed has all finished methods yet"


def test_figure_3_has_the_papers_marks_beside_our_bars():
    ax = figures.class_iou_bars(finished(BOTH), CLASSES)
    shown = marks(ax)
    assert [y for _, y, _, _ in shown] == list(PAPER.values())
    assert shown[0][2:] == pytest.approx((0.746 - 0.018, 0.746 + 0.018))
    first, *_ = sorted(ax.patches, key=lambda bar: bar.get_x())
    after = first.get_x() + first.get_width()
    assert after < shown[0][0] < after + first.get_width()
    assert bars_at(ax) == [0.7, 0.8, 0.5, 0.6, 0.6, 0.9, 0.2, 0.1]
    pending = [t.get_text() for t in ax.texts]
    assert pending == ["focal: pending", "balanced: pending", "WCE: pending"]
    legend = [t.get_text() for t in ax.get_legend().get_texts()]
    assert legend == ["baseline", "DLI", "paper (Table 1)"]


def test_figure_3_has_a_mark_for_each_encoder():
    frame = pd.concat([finished(BOTH), finished(BOTH, encoder="resnest50d")])
    heights = [y for _, y, _, _ in marks(figures.class_iou_bars(frame, CLASSES))]
    assert heights[:2] == [0.746, 0.774] and len(heights) == 10


@pytest.mark.parametrize("other", [{"data": "toy"}, {"split": "tile"}, {"encoder": "resnet34"}])
def test_figure_3_marks_only_what_the_paper_measured(other):
    ax = figures.class_iou_bars(finished(BOTH, **other), CLASSES)
    assert not marks(ax) and not ax.texts


def test_figure_3_has_dlis_level_in_each_group():
    ax = figures.class_iou_bars(finished(BOTH), CLASSES)
    segments = np.concatenate([lines.get_segments() for lines in ax.collections])  # (N, 2, 2)
    level = segments[segments[:, 0, 0] < segments[:, 1, 0]]
    assert level[:, :, 1].tolist() == [[0.8, 0.8], [0.6, 0.6], [0.9, 0.9], [0.1, 0.1]]


def test_figure_3_without_records_is_drawn():
    empty = pd.DataFrame(columns=["method", "seed", "encoder", "data", "split"])
    assert title(figures.class_iou_bars(empty, CLASSES)) == "No IoU is measured yet"


def fractions(values, shares=(0.5, 1.0)):
    """Method -> mean IoU at each share, as `stats.summarise` and `stats.drop` give them."""
    rows = [
        {"method": method, "fraction": f, "mean": mean, "low": mean, "high": mean, "n": 2}
        for method, means in values.items()
        for f, mean in zip(shares, means, strict=True)
    ]
    summary = pd.DataFrame(rows)
    means = summary.pivot(index="fraction", columns="method", values="mean")
    return summary, 100 * (means / means.loc[1.0] - 1)


def test_figure_5_states_the_change_at_half_of_the_data():
    axes = figures.data_fraction(*fractions({"dli": [0.72, 0.8], "wce": [0.7, 0.7]}))
    said = "At 50 % of the training data the IoU changes by −10 % (DLI) and +0 % (WCE)"
    assert title(axes[0]) == said
    assert "n = 2 seeds" in axes[1].get_xlabel()
    assert {t.get_text() for t in axes[0].texts} == {"DLI", "WCE"}


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ((0.25, 0.5, 0.75, 1.0), "At 50 % of the training data the IoU changes by −20 % (DLI)"),
        ((0.25, 0.6, 0.75, 1.0), "At 25 % of the training data the IoU changes by −40 % (DLI)"),
    ],
)
def test_figure_5_states_another_share_only_where_half_is_missing(shares, said):
    axes = figures.data_fraction(*fractions({"dli": [0.3, 0.4, 0.45, 0.5]}, shares))
    assert title(axes[0]) == said


def test_figure_5_leaves_out_what_is_pending():
    axes = figures.data_fraction(*fractions({"dli": [0.72, 0.8], "wce": [np.nan, np.nan]}))
    assert title(axes[0]) == "At 50 % of the training data the IoU changes by −10 % (DLI)"
    assert [t.get_text() for t in axes[1].texts] == ["DLI"]
    axes = figures.data_fraction(*fractions({"dli": [np.nan, 0.8]}))
    assert title(axes[0]) == "No change from all of the training data is measured yet"


def test_figure_2_states_the_imbalance(toy):
    ax = figures.class_distribution(toy)
    assert title(ax) == "71 % of 336 images are defect-free; the rarest defect, Fray, has 8"
    assert [bar.get_width() for bar in ax.patches] == [29, 21, 14, 8, 26, 238]
    two = toy.subset([0, *[int((toy.labels == c).nonzero()[0]) for c in range(1, 6)]])
    said = (
        "17 % of 6 images are defect-free; the rarest defects, "
        "Blowhole, Break, Crack, Fray and Uneven, have 1 each"
    )
    assert title(figures.class_distribution(two)) == said


def test_areas_and_sizes_are_told(toy):
    images = dataset.images(toy)
    images["width"] = [30, 50] * (len(images) // 2)
    images["mask share, %"] = 0.0
    images.loc[images["class"] == "Crack", "mask share, %"] = 0.5
    images.loc[images["class"] == "Uneven", "mask share, %"] = 20.0
    areas, sizes, parts = figures.areas_and_sizes(images, toy.classes)
    assert title(areas) == "Median mask: from 0.5 % (Crack) to 20 % of the image (Uneven)"
    assert "n = 40" in areas.get_xlabel()  # 14 + 26
    height = int(images["height"].iloc[0])
    assert title(sizes) == f"Images: 30 to 50 pixels wide, {height} high"
    per_part = images["part"].value_counts()
    several, largest = (per_part > 1).sum(), per_part.max()
    said = f"{several} of {len(per_part)} parts have several images, one has {largest}"
    assert title(parts) == said
    assert sum(bar.get_height() for bar in parts.patches) == len(per_part)


def test_changes_state_the_least_and_the_most():
    maps = {"a": torch.full((4, 4), 0.25), "b": torch.zeros(4, 4), "c": torch.full((4, 4), 0.125)}
    axes = figures.changes(maps, "Crack")
    assert [ax.get_title() for ax in axes] == ["a", "b", "c"]
    assert title(axes[0]) == "Mean change of a pixel: from 0 (b) to 0.25 (a)"


def claim_rows(rows):
    """Rows of `claims.claims`: claim, protocol, low, high, n."""
    frame = pd.DataFrame(rows, columns=["claim", "protocol", "low", "high", "n"])
    frame["mean"] = (frame["low"] + frame["high"]) / 2
    frame.loc[(frame["n"] == 1), "mean"] = 0.1
    state = np.where(frame["n"] > 0, "undecided", "pending")
    return frame.assign(encoder="resnet18", state=state, paper=0.03)


OURS, HARD, EASY = "paper's protocol", "all corrected", "tile-disjoint, last epoch"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [
                ("A", OURS, 0.1, 0.2, 3),
                ("B", OURS, -0.1, 0.2, 3),
                ("C", OURS, -0.2, -0.1, 3),
                ("A", HARD, -0.1, 0.2, 3),
                ("A", EASY, 0.1, 0.2, 3),  # of as many seeds the harder one counts
                ("B", HARD, -0.1, 0.2, 2),
                ("B", EASY, 0.1, 0.2, 3),  # here it has fewer
            ],
            "Whole interval above 0: 1 of 3 claims (1 below) under the paper's protocol, "
            "1 of 2 claims under the audit",
        ),
        (
            [("A", OURS, np.nan, np.nan, 1), ("B", OURS, np.nan, np.nan, 0)],
            "1 claim measured, none with an interval yet",
        ),
        ([("A", OURS, np.nan, np.nan, 0)], "No claim is measured yet"),
        (
            [
                ("A", OURS, 0.1, 0.2, 2),
                ("B", OURS, np.nan, np.nan, 1),
                ("A", EASY, np.nan, np.nan, 1),
            ],
            "Whole interval above 0: 1 of 1 claim under the paper's protocol, "
            "none yet under the audit",
        ),
    ],
)
def test_effects_count_the_intervals_above_zero(rows, said):
    ax = figures.effects(claim_rows(rows))
    assert title(ax) == said
    assert ax.get_legend().get_texts()[0].get_text() == "paper"


def test_effects_show_each_claim_in_its_row():
    rows = [("A", OURS, 0.1, 0.3, 3), ("B", OURS, np.nan, np.nan, 0), ("A", HARD, -0.2, 0.0, 2)]
    ax = figures.effects(claim_rows(rows))
    said = [t.get_text() for t in ax.texts]
    assert said == ["A", "B", "pending"]
    points = {c.get_label(): c.lines[0].get_data() for c in ax.containers}
    assert points[OURS][0].tolist() == pytest.approx([0.2])
    assert points[HARD][0].tolist() == pytest.approx([-0.1])
    middle = ax.texts[1].xy[1]  # the top of B's row
    assert 0 < points[OURS][1][0] < points[HARD][1][0] < middle < ax.get_ylim()[0]


def test_effects_say_where_a_claim_is_not_measurable():
    rows = [(claim, name, 0.1, 0.3, 3) for claim in "AB" for name in (OURS, HARD)]
    frame = claim_rows(rows)
    frame.loc[2, "state"] = "not measurable"  # B, OURS
    ax = figures.effects(frame)
    words = {t.get_text(): t.xy[1] for t in ax.texts}
    assert list(words) == ["A", "B", "not measurable"]
    points = {c.get_label(): c.lines[0].get_data()[1] for c in ax.containers}
    assert len(points[OURS]) == 1 and words["B"] < words["not measurable"] < points[HARD][1]
    frame.loc[[1, 3], "state"] = "not measurable"  # A and B, HARD
    said = [t.get_text() for t in figures.effects(frame).texts]
    assert said == ["A", "B", *["not measurable"] * 3]


def test_effects_cut_off_an_interval_that_would_press_all_others_together():
    ax = figures.effects(claim_rows([("A", OURS, 0.1, 0.3, 3), ("B", OURS, -9.0, 9.2, 2)]))
    assert ax.get_xlim() == pytest.approx((-0.6, 0.6))  # thrice 0.2, the farthest difference
    arrows = {line.get_marker(): line.get_xydata().tolist() for line in ax.lines}
    below = arrows["<"][0][1]
    assert arrows["<"] == [pytest.approx([-0.6, below])]
    assert arrows[">"] == [pytest.approx([0.6, below])]
    assert below > ax.texts[1].xy[1]  # in B's row
    assert "(arrow: longer)" in ax.get_xlabel()
    equal = claim_rows([("A", OURS, -0.1, 0.1, 2)]).assign(paper=np.nan)  # no difference at all
    assert "arrow" not in figures.effects(equal).get_xlabel()


def timed(rows):
    """Rows of `timing.compare`: what, milliseconds, ratio, group."""
    frame = pd.DataFrame(rows, columns=["what", "ms", "ratio", "size"])
    return frame.assign(low=frame["ms"] * 0.9, high=frame["ms"] * 1.1, n=5)


def test_timings_state_our_time_and_the_ratio_to_the_others():
    rows = [
        ("ours", 15.0, 1.0, "small"),
        ("ours, slow", 90.0, 6.0, "small"),
        ("theirs", 36.0, 2.4, "small"),
        ("ours", 35.4, 1.0, "large"),
        ("ours, slow", 70.0, 2.0, "large"),
        ("theirs", 1416.0, 40.0, "large"),
    ]
    ax = figures.timings(timed(rows), "size", "image")
    assert title(ax) == "ours takes 15 to 35 ms; theirs 2.4 to 40 times as long"
    said = [t.get_text() for t in ax.texts]
    assert said[:2] == ["image small", "image large"]
    assert "theirs: 1,420 ms, × 40" in said and "n = 5 repeats" in ax.get_xlabel()
    ax = figures.timings(timed([*rows, ("third", 30.0, 2.0, "small")]), "size", "image")
    assert title(ax) == "ours takes 15 to 35 ms; 2 others 2 to 40 times as long"
    assert title(figures.timings(timed(rows[:1]), "size", "image")) == "ours takes 15 ms"


def test_figures_take_no_style_from_the_user_and_leave_it_as_it_is():
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "black", "axes.spines.top": True}):
        before = dict(mpl.rcParams)
        ax = figures.class_iou_bars(finished(BOTH), CLASSES)
        assert dict(mpl.rcParams) == before
        ax.figure.canvas.draw()
        assert ax.get_facecolor() == (1, 1, 1, 1) and not ax.spines["top"].get_visible()
        assert {t.get_fontsize() for t in ax.get_yticklabels()} == {9}


def test_figure_3_has_a_dot_for_each_run():
    runs = [finished({"dli": [iou, 0.5, np.nan, iou]}, seeds=[k]) for k, iou in enumerate((0, 0.8))]
    ax = figures.class_iou_bars(pd.concat(runs), CLASSES)
    dots = [line.get_ydata().tolist() for line in ax.lines if line.get_marker() == "o"]
    assert dots == [[0, 0.8], [0.5, 0.5], [0, 0.8]]  # all classes, hole, fray; crack is nowhere


def test_lead_curves_tell_an_early_lead_from_a_late_one():
    early = np.repeat([0.4, 0.0, 0.0, -0.1], 10)
    curves = {"image": [(0, early), (3, early + 0.1)], "tile": [(0, -early)]}
    axes = figures.lead_curves(curves)
    said = "image +0.450 and -0.050, tile -0.400 and +0.100"
    title_of_all = axes[0].figure.get_suptitle().replace("\n", " ")
    assert title_of_all == f"Mean lead in the first and last quarter: {said}"
    assert [ax.get_title(loc="left") for ax in axes] == ["image", "tile"]
    named = [t.get_text() for t in axes[0].get_legend().get_texts()]
    assert named == ["seed 0", "seed 3"]
    (ax,) = figures.lead_curves({"image": [(0, np.array([0.1]))]})  # a single epoch
    assert "+0.100 and +0.100" in ax.figure.get_suptitle().replace("\n", " ")
    _, thin, thick, *_ = axes[0].lines
    assert thin.get_ydata().tolist() == early.tolist()
    assert thick.get_ydata()[20] == pytest.approx(0.0)  # the mean of epochs 17 to 25
    assert thick.get_ydata()[9] == pytest.approx(0.4 * 5 / 9)  # of 6 to 14: five of them at 0.4


def test_an_axes_that_is_given_is_drawn_on(toy):
    _, given = plt.subplots()
    assert figures.class_distribution(toy, given) is given
    assert figures.class_iou_bars(finished(BOTH), CLASSES, given) is given


def drawn(toy):
    """A figure of each kind that has a title, with long ones."""
    images = dataset.images(toy)
    yield figures.class_distribution(toy)
    yield figures.areas_and_sizes(images, toy.classes)[0]
    everything = finished({method: [0.9] * 4 for method in METHODS}, [0, 1])
    yield figures.class_iou_bars(everything, CLASSES)
    lead = [(seed, np.zeros(160)) for seed in range(5)]
    yield figures.lead_curves({"the paper's split": lead, "tile-disjoint": lead})[0]
    yield figures.data_fraction(*fractions({"dli": [0.72, 0.8], "wce": [0.7, 0.71]}))[0]
    yield figures.effects(claim_rows([("A", OURS, 0.1, 0.2, 3), ("A", HARD, 0.1, 0.2, 3)]))
    yield figures.timings(timed([("ours", 1.0, 1.0, "a"), ("theirs", 9.0, 9.0, "a")]), "size", "")
    maps = {"rectangle, donor": torch.rand(8, 8), "mask, donor": torch.zeros(8, 8)}
    yield figures.changes(maps, "Crack")[0]


def test_no_title_is_cut_off_and_figures_are_narrow(toy):
    for ax in drawn(toy):
        figure = ax.figure
        figure.canvas.draw()
        assert figure.get_figwidth() == WIDTH <= 6.4
        texts = [ax._left_title, *([figure._suptitle] if figure._suptitle else [])]
        for text in texts:
            box = text.get_window_extent()
            assert box.x0 >= 0 and box.x1 <= figure.bbox.x1, text.get_text()
            assert box.y1 <= figure.bbox.y1, text.get_text()
