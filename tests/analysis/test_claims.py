import itertools
import math
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from builders import TINY, record

import dlilib
from dlilib.analysis import claims, figures, report, tables
from dlilib.analysis.records import ORDERS, load_or_train
from dlilib.analysis.stats import (
    Estimate,
    Pair,
    clustered_difference,
    estimate,
    seeds_to_decide,
)
from dlilib.study import presets
from dlilib.training.store import Store

ROOT = Path(__file__).parents[2]
BASE = replace(presets.PRESETS["lite"].base, encoder="resnet18")


def test_difference_and_its_interval_by_hand():
    # Parts 1 and 2 have the differences 0.5 and 0; a resample of two parts gives 0.5, 0.25 (two
    # ways) or 0.
    ours, theirs = np.array([[8, 2, 0], [4, 6, 0]]), np.array([[3, 7, 0], [4, 6, 0]])
    pair = Pair(ours, theirs, np.array([1, 2]))
    single = clustered_difference([pair])
    assert single.mean == pytest.approx(0.25) and single.n == 1 and math.isnan(single.low)
    both = clustered_difference([pair, pair])  # the seeds agree, so the parts decide
    assert (both.mean, both.n) == (pytest.approx(0.25), 2)
    assert both.low == pytest.approx(0, abs=0.13) and both.high == pytest.approx(0.5, abs=0.13)
    assert clustered_difference([]).n == 0


def test_seeds_that_disagree_widen_the_interval_to_students():
    parts = np.arange(50)
    flat = [
        Pair(np.tile([x, 10 - x, 0], (50, 1)), np.tile([5, 5, 0], (50, 1)), parts) for x in (6, 9)
    ]
    found = clustered_difference(flat)
    expected = estimate([0.1, 0.4])
    assert (found.mean, found.low, found.high) == pytest.approx(
        (expected.mean, expected.low, expected.high)
    )


def test_parts_are_drawn_whole_not_images():
    g = np.random.default_rng(0)
    hit = np.repeat(g.integers(0, 2, 12), 20)  # twenty images of each of twelve parts behave alike
    ours, theirs = np.stack([hit * 9 + 1, 10 - hit * 9, 0 * hit], 1), np.tile([5, 6, 0], (240, 1))
    clustered = clustered_difference([Pair(ours, theirs, np.repeat(np.arange(12), 20))] * 2)
    loose = clustered_difference([Pair(ours, theirs, np.arange(240))] * 2)
    assert clustered.high - clustered.low > 3 * (loose.high - loose.low)


def test_interval_covers_when_seeds_validate_the_same_parts():
    g, covered = np.random.default_rng(0), 0
    parts = np.arange(30)
    for _ in range(150):
        of_part = g.normal(
            0, 0.1, len(parts)
        )  # ours is that much better on each part, in every seed
        pairs = []
        for shift in g.normal(0.1, 0.01, 5):
            right = (100 * (0.5 + shift + of_part)).clip(1, 99).round()
            ours, theirs = (
                np.stack([right, 100 - right, 0 * right], 1),
                np.tile([50, 50, 0], (len(parts), 1)),
            )
            pairs.append(Pair(ours, theirs, parts))
        found = clustered_difference(pairs)
        covered += found.low <= 0.1 <= found.high
    assert covered / 150 > 0.88


@pytest.mark.parametrize(
    ("low", "high", "n", "paper", "expected"),
    [
        (0.01, 0.03, 5, 0.02, "reproduced"),
        (0.01, 0.015, 5, 0.02, "weaker"),
        (-0.01, 0.03, 5, 0.02, "undecided (n = 5)"),
        (-0.03, -0.01, 5, 0.02, "not reproduced"),
        (math.nan, math.nan, 1, 0.02, "undecided (n = 1)"),
        (math.nan, math.nan, 0, 0.02, "pending"),
        (0.01, 0.03, 3, math.nan, "reproduced"),
        (0.01, 0.03, 2, 0.02, "reproduced"),
        (0.0, 0.0, 2, 0.02, "undecided (n = 2; the paper's difference is excluded)"),
    ],
)
def test_verdict_is_never_stronger_than_the_interval(low, high, n, paper, expected):
    assert str(claims.verdict(Estimate(0.02, low, high, n), paper)) == expected


@pytest.mark.parametrize(
    ("measured", "paper", "expected"),
    [
        (
            estimate([0.0, 0.02, 0.04]),
            0.034,
            "n = 3; 3 to 110 or more would decide the paper's difference",
        ),
        (
            estimate([0.0, 0.02, 0.04]),
            0.004,
            "n = 3; 56 to over 1,000 would decide the paper's",
        ),
        (estimate([0.0, -0.02, -0.04]), 0.034, "n = 3; the paper's difference is excluded)"),
        (estimate([0.0, 0.02, 0.04]), 0.069, "n = 3; 3 to 29 or more would decide the paper's"),
        (estimate([0.0, 0.02, 0.04]), 0.1, "n = 3; the paper's difference is excluded)"),
        (estimate([-0.01, 0.02]), 0.5, "n = 2; the paper's difference is excluded)"),
        (
            estimate([0.0, 0.02, 0.04]),
            math.nan,
            "n = 3; 5 to 312 or more would decide this difference",
        ),
        (estimate([-0.02, 0.0, 0.02]), math.nan, "n = 3; over 1,000 would decide this"),
        # Student's t holds 0, too, though the bootstrap reaches farther
        (
            Estimate(0.01, -0.03, 0.04, 3, 0.012),
            0.02,
            "n = 3; 4 to 114 or more would decide the paper's",
        ),
        (estimate([-0.01, 0.02]), 0.034, "n = 2)"),  # a deviation of two says nothing
        # the seeds agree, so it is the bootstrap's end that is beyond 0
        (Estimate(0.01, -0.02, 0.04, 3, 0.001), 0.02, "n = 3; its parts leave it open"),
        (Estimate(-0.01, -0.04, 0.02, 3, 0.001), 0.02, "n = 3; its parts leave it open"),
    ],
)
def test_undecided_says_how_many_seeds_would_decide(measured, paper, expected):
    assert str(claims.verdict(measured, paper)).startswith(f"undecided ({expected}")


def test_seeds_needed_by_the_papers_own_spread(tmp_path):
    found = claims.claims("lite", tmp_path, protocols=["paper's protocol"])
    table = claims.seeds_needed(found, hours=2.25).set_index("claim")
    # DLI 0.780 ± 0.016, the baseline 0.746 ± 0.018; two runs a seed
    row = table.loc["DLI beats baseline"]
    assert row[["paper", "seeds by it"]].tolist() == ["+0.034 ± 0.027", "8"]
    assert row[["seeds by ours", "hours a seed"]].tolist() == ["–", "4.5"]
    assert table.loc["both blends beat cut-paste", "seeds by it"] == "263"
    nothing = table.loc["DLI drops less than WCE at half the data"]
    assert nothing[["paper", "seeds by it", "hours a seed"]].tolist() == [
        "–",
        "–",
        "6.8",
    ]  # half the data


def test_seeds_needed_by_ours_take_the_papers_difference():
    row = {"encoder": "resnet18", "claim": "DLI beats baseline", "state": "undecided", "n": 3}
    measured = {"mean": 0.01, "deviation": 0.03, "paper": 0.034, "paper_deviation": 0.024}
    table = claims.seeds_needed(pd.DataFrame([row | measured]), hours=math.nan)
    assert table["our deviation"].tolist() == ["0.030 (0.016 to 0.189)"]
    ends = [seeds_to_decide(0.034, deviation) for deviation in (0.03, 0.01562, 0.18854)]
    assert table["seeds by ours"].tolist() == ["{} ({} to {})".format(*ends)]
    assert table["hours a seed"].tolist() == ["–"]


def test_claims_compare_what_they_say(tmp_path):
    store = Store(tmp_path)
    good, poor = [[9, 1, 0]] * 4, [[6, 4, 0]] * 4
    missed = [[0, 0, 5]] * 4  # of the other classes
    for seed in (0, 1, 2):
        for split, dli in (("image", good), ("tile", poor)):
            for method in ("baseline", "dli"):
                run = replace(BASE, seed=seed, split=split, method=method)
                images = dli if method == "dli" else poor
                classes = [np.sum(images, axis=0).tolist(), *missed]
                store.finish(run, record(run, images, classes=classes))
    frame = claims.claims("lite", tmp_path, seeds=(0, 1, 2)).set_index(["claim", "protocol"])
    row = frame.loc["DLI beats baseline", "paper's protocol"]
    assert (row["mean"], row["low"], row["n"]) == (pytest.approx(0.3), pytest.approx(0.3), 3)
    assert row["paper"] == pytest.approx(0.780 - 0.746) and row["verdict"] == "reproduced"
    assert frame.loc["DLI beats baseline", "tile-disjoint"]["verdict"] == (
        "undecided (n = 3; the paper's difference is excluded)"
    )
    assert frame.loc["DLI beats wce", "paper's protocol"]["verdict"] == "pending"
    assert frame.loc["both blends beat Poisson", "paper's protocol"]["paper"] == pytest.approx(
        0.780 - 0.769
    )
    small = frame.loc["DLI helps small defects more than large ones", "paper's protocol"]
    assert small["mean"] == pytest.approx(0.3 / 2) and small["verdict"] == "reproduced"
    decided = claims.verdicts(frame.reset_index()).set_index("claim").loc["DLI beats baseline"]
    assert (decided["reproduced?"], decided["audit"]) == ("reproduced", "tile-disjoint, last epoch")


def test_gains_among_defects_that_nobody_finds_are_no_gains(tmp_path):
    store = Store(tmp_path)
    for seed, method in ((s, m) for s in (0, 1) for m in ("baseline", "dli")):
        run = replace(BASE, seed=seed, method=method)
        blind = [[0, 5, 9], [3, 1, 1], [0, 0, 9], [5, 1, 0], [9, 1, 0]]
        store.finish(run, record(run, [[9, 1, 0]] * 4, classes=blind))
    frame = claims.claims("lite", tmp_path).set_index(["claim", "protocol"])
    small = frame.loc["DLI helps small defects more than large ones", "paper's protocol"]
    assert small["verdict"].startswith("not measurable")


def class_records(folder, dli, baseline):
    """Finish seeds 0 and 1 of both methods with these counts of the five classes."""
    for seed, (method, classes) in itertools.product(
        (0, 1), {"dli": dli, "baseline": baseline}.items()
    ):
        run = replace(BASE, seed=seed, method=method)
        images = [np.sum(classes, axis=0).tolist()]
        Store(folder).finish(run, record(run, images, classes=classes))


NONE_TO_FIND = [0, 7, 0]


def test_class_without_a_pixel_to_find_is_in_no_mean(tmp_path):
    # Small are the first and the third: only the first has pixels, as the second of the large ones.
    dli = [[5, 0, 5], NONE_TO_FIND, NONE_TO_FIND, [2, 0, 8], NONE_TO_FIND]
    baseline = [[1, 0, 9], NONE_TO_FIND, [0, 0, 0], [1, 0, 9], [0, 0, 0]]
    class_records(tmp_path, dli, baseline)
    made = Store(tmp_path).record(replace(BASE, seed=0, method="dli"))
    found = claims.class_iou(made, "last")
    assert found == pytest.approx([0.5, math.nan, math.nan, 0.2, math.nan], nan_ok=True)
    assert claims.mean_class_iou(found) == pytest.approx(0.35)
    assert math.isnan(claims.mean_class_iou(found[1:3]))
    frame = claims.claims("lite", tmp_path, protocols=["paper's protocol"]).set_index("claim")
    row = frame.loc["DLI helps small defects more than large ones"]
    assert (row["mean"], row["n"]) == (pytest.approx(0.4 - 0.1), 2)


def test_every_class_gains_only_if_the_least_does(tmp_path):
    baseline = [[5, 0, 5], [5, 0, 5], [5, 0, 5], [5, 0, 5], NONE_TO_FIND]
    for fray, least, verdict in ((8, 0.3, "reproduced"), (3, -0.2, "not reproduced")):
        dli = [[9, 0, 1], [8, 0, 2], [9, 0, 1], [fray, 0, 10 - fray], NONE_TO_FIND]
        class_records(tmp_path / verdict, dli, baseline)
        frame = claims.claims("lite", tmp_path / verdict, protocols=["paper's protocol"])
        row = frame.set_index("claim").loc["every class gains over the baseline"]
        assert (row["mean"], row["verdict"]) == (pytest.approx(least), verdict)


def test_a_class_that_nobody_finds_cannot_gain(tmp_path):
    baseline = [[5, 0, 5], [5, 0, 5], [0, 0, 9], [5, 0, 5], [5, 0, 5]]
    for fray, verdict in ((8, "not measurable (Crack below IoU 0.05)"), (3, "not reproduced")):
        dli = [[9, 0, 1], [8, 0, 2], [0, 0, 9], [fray, 0, 10 - fray], [9, 0, 1]]
        class_records(tmp_path / str(fray), dli, baseline)
        frame = claims.claims("lite", tmp_path / str(fray), protocols=["paper's protocol"])
        row = frame.set_index("claim").loc["every class gains over the baseline"]
        assert row["verdict"] == verdict


def test_a_class_of_a_single_seed_decides_nothing():
    clear, single, worse = ([0.1, 0.1, 0.11], [0.5, np.nan, np.nan], [-0.3, -0.3, -0.31])
    weakest = claims._weakest([estimate(clear), estimate(single)])
    assert claims.verdict(weakest, math.nan).state == "undecided"
    weakest = claims._weakest([estimate(values) for values in (clear, single, worse)])
    assert weakest.mean == pytest.approx(-0.303, abs=1e-3)


def test_every_class_is_measured_as_figure_3_is(tmp_path):
    for seed, method in itertools.product((0, 1), ("baseline", "dli")):
        run = replace(BASE, method=method, seed=seed)
        ours = method == "dli"
        images = [[8, 0, 2] if ours else [5, 0, 5], [6, 4 * ours, 4]]  # false alarms on the second
        classes = [[8 if ours else 5, 4 * ours, 2 if ours else 5], [6, 0, 4], *[[0, 0, 0]] * 3]
        made = record(run, images, classes=classes, tiles=(1, 2))
        made["data"]["val"] = [0, 1, 1, 0, 0, 0]
        Store(tmp_path).finish(run, made)
    frame = claims.claims("lite", tmp_path, protocols=["paper's protocol"]).set_index("claim")
    row = frame.loc["every class gains over the baseline"]
    assert (row["mean"], row["verdict"]) == (pytest.approx(6 / 14 - 0.6), "not reproduced")


def test_figure_3_is_of_the_images_of_each_class(tmp_path):
    """As the authors' code counts it: all classes' pixels in the images of one."""
    run = replace(BASE, method="dli")
    images = [[1, 0, 9], [3, 1, 0], [4, 0, 0], [0, 2, 2], [0, 0, 0]]
    made = record(run, images, tiles=range(5))
    made["data"]["val"] = [1, 2, 0, 1, 0, 1]  # the defect-free one stands before Uneven's
    Store(tmp_path).finish(run, made)
    (row,) = dlilib.records(tmp_path).to_dict("records")
    found = [row[f"image_iou_{name}"] for name in made["data"]["classes"]]
    assert found == pytest.approx([4 / 14, math.nan, 1.0, math.nan, math.nan], nan_ok=True)
    table = tables.class_table("lite", dlilib.records(tmp_path), by="images").set_index("method")
    assert table.loc["dli", ["Blowhole", "Break"]].tolist() == ["0.286 (n = 1)", "–"]
    del made["data"]["val"]
    Store(tmp_path).finish(run, made)  # a record that does not tell
    assert dlilib.records(tmp_path)["image_iou_Crack"].isna().all()


@pytest.mark.parametrize("source", ["toy", "magnetic_tiles"])
def test_the_data_sets_have_their_images_class_after_class(source, request):
    tiles = request.getfixturevalue("toy" if source == "toy" else "real_tiles")
    counts = torch.bincount(tiles.labels)
    order = torch.tensor(ORDERS[source])
    assert torch.equal(tiles.labels, order.repeat_interleave(counts[order]))


def blowhole_curve(run, tp, part, seen="some"):
    """A record whose validation images, of one part, have 100 pixels of a Blowhole to find."""
    made = record(run, [[1, 0, 99]], tiles=[part])
    history = np.zeros((15, 5, 2), dtype=int)
    for point, found in tp.items():
        history[point, 0, 0] = found
    if seen == "all":  # 160 points instead of 15
        history = history.repeat(11, axis=0)[:160]
    return made | {"history": {"classes": history.tolist()}}


def test_other_folds_choose_the_epoch(tmp_path):
    store, name = Store(tmp_path), "tile-disjoint, other folds' epoch"
    curves = [{2: 50, 5: 20}, {2: 10, 5: 30}, {2: 10, 5: 45}]
    for seed, curve in enumerate(curves):
        for method, tp in (("dli", curve), ("baseline", {0: 5})):
            run = replace(BASE, seed=seed, method=method, split="tile")
            seen = "all" if seed == 1 else "some"
            store.finish(run, blowhole_curve(run, tp, seed, seen))
        frame = claims.claims("lite", tmp_path, protocols=[name]).set_index("claim")
        assert frame.loc["DLI beats baseline", "n"] == (0, 2, 3)[seed]
    # For seed 0 the others choose point 5, for seed 1 too, for seed 2 point 2: 0.20, 0.30, 0.10.
    row = frame.loc["DLI beats baseline"]
    expected = estimate([0.15, 0.25, 0.05])
    assert (row["mean"], row["low"]) == pytest.approx((expected.mean, expected.low))
    small = frame.loc["DLI helps small defects more than large ones"]
    assert small["verdict"] == "not measurable (nothing to find)"  # of the large ones


def test_the_same_parts_choose_no_epoch(tmp_path):
    for seed, method in itertools.product((0, 1), ("dli", "baseline")):
        run = replace(BASE, seed=seed, method=method, split="tile")
        Store(tmp_path).finish(run, blowhole_curve(run, {0: 9}, part=7))
    name = "tile-disjoint, other folds' epoch"
    frame = claims.claims("lite", tmp_path, protocols=[name]).set_index("claim")
    row = frame.loc["DLI beats baseline"]
    assert row["verdict"] == "not measurable (no other fold chooses an epoch)"
    assert (row["n"], row["text"]) == (0, "–")
    some = claims.claims("lite", tmp_path, seeds=(1, 50), protocols=[name]).set_index("claim")
    assert some.loc["DLI beats baseline", "verdict"] == "not planned"  # one of them is
    single = claims.claims("smoke", tmp_path, protocols=[name])
    assert set(single["verdict"]) == {"not planned"}  # one seed has no other


def test_small_defects_need_a_gain_and_more_of_it_than_the_others():
    # By hand: the small class gains 0.1 and 0.3 (mean 0.2), the large one 0.0 and 0.3; so the
    # second condition has the differences 0.1 and 0.0.
    groups = []
    for seed, (small, large) in enumerate([(6, 5), (8, 8)]):
        counts = [[small, 0, 10 - small], [large, 0, 10 - large], *[NONE_TO_FIND] * 3]
        run = replace(BASE, seed=seed)
        flat = [[5, 0, 5], [5, 0, 5], *[NONE_TO_FIND] * 3]
        groups.append([record(run, [[9, 1, 0]], classes=c) for c in (counts, flat)])
    gained, more = estimate([0.1, 0.3]), estimate([0.1, 0.0])
    assert gained.low < more.low
    assert claims.small_less_large(groups, "last").mean == pytest.approx(gained.mean)
    alike = [groups[1], groups[1]]
    assert claims.small_less_large(alike, "last") == estimate([0, 0])
    # a single seed has no interval
    assert claims.small_less_large(groups[1:], "last").mean == pytest.approx(0)


def test_small_defects_that_surely_gain_less_are_not_helped():
    # the small class gains -0.3, 0 and 0.25, which is open, but always some 0.1 less than the other
    groups = []
    for seed, (small, large) in enumerate([(20, 30), (50, 61), (75, 84)]):
        flat = [[50, 0, 50], [50, 0, 50], *[NONE_TO_FIND] * 3]
        ours = [[small, 0, 100 - small], [large, 0, 100 - large], *[NONE_TO_FIND] * 3]
        run = replace(BASE, seed=seed)
        groups.append([record(run, [[9, 1, 0]], classes=counts) for counts in (ours, flat)])
    found = claims.small_less_large(groups, "last")
    assert found.mean == pytest.approx(-0.1) and found.low > estimate([-0.3, 0, 0.25]).low
    assert str(claims.verdict(found, math.nan)) == "not reproduced"


def test_no_share_is_kept_of_nothing(tmp_path):
    for method, fraction in itertools.product(("dli", "wce"), (1.0, 0.5)):
        run = replace(BASE, method=method, fraction=fraction)
        found = 0 if (method, fraction) == ("wce", 1.0) else 9
        Store(tmp_path).finish(run, record(run, [[found, 1, 0]] * 4))
    frame = claims.claims("lite", tmp_path, protocols=["paper's protocol"]).set_index("claim")
    row = frame.loc["DLI drops less than WCE at half the data"]
    assert row["verdict"] == "not measurable (nothing to find)"


@pytest.mark.parametrize(("small", "said"), [(5, 0), (3, -0.2), (8, 0.3)])
def test_small_defects_are_not_helped_by_what_large_ones_lose(tmp_path, small, said):
    large = [5, 0, 5]
    dli = [[small, 0, 10 - small], [1, 0, 9], NONE_TO_FIND, large, large]
    class_records(tmp_path, dli, [[5, 0, 5], large, NONE_TO_FIND, large, large])
    frame = claims.claims("lite", tmp_path, protocols=["paper's protocol"]).set_index("claim")
    row = frame.loc["DLI helps small defects more than large ones"]
    assert row["mean"] == pytest.approx(said)


def test_claim_about_classes_without_a_pixel_to_find_is_not_measurable(tmp_path):
    only_large = [NONE_TO_FIND, [5, 0, 5], NONE_TO_FIND, [5, 0, 5], [5, 0, 5]]
    class_records(tmp_path, only_large, only_large)
    frame = claims.claims("lite", tmp_path, protocols=["paper's protocol"]).set_index("claim")
    row = frame.loc["DLI helps small defects more than large ones"]
    assert (row["text"], row["verdict"]) == ("–", "not measurable (nothing to find)")
    assert frame.loc["DLI beats baseline", "mean"] == 0


def test_validation_without_a_defect_is_no_score_anywhere(tmp_path):
    class_records(tmp_path, [NONE_TO_FIND] * 5, [NONE_TO_FIND, *[[0, 0, 0]] * 4])
    frame = dlilib.records(tmp_path)
    scores = [name for name in frame if name.startswith("iou_")]
    assert len(scores) == 7 and frame[scores].isna().all(axis=None)
    table = tables.class_table("lite", frame).set_index("method")
    assert table.loc["dli", "Blowhole"] == "–" and table.loc["wce", "Blowhole"] == "pending"
    assert tables.paper_table(1, "lite", frame).loc["dli", "resnet18, ours"] == "–"
    found = claims.claims("lite", tmp_path, protocols=["paper's protocol"]).set_index("claim")
    assert found.loc["DLI beats baseline", "verdict"] == "not measurable (nothing to find)"
    assert found.loc["DLI beats wce", "verdict"] == "pending"


def test_what_no_run_feeds_is_not_planned_and_the_rest_pending(tmp_path):
    frame = claims.claims("short", tmp_path, ["resnet18"]).set_index(["claim", "protocol"])["text"]
    assert (
        frame["DLI beats baseline", "solid masks"]
        == frame["DLI beats wce", "tile-disjoint"]
        == "pending"
    )
    assert frame["DLI beats wce", "solid masks"] == "not planned"
    assert ("DLI beats wce", "published losses") not in frame  # the paper's own there
    frame = claims.claims("lite", tmp_path).set_index(["claim", "protocol"])["text"]
    assert frame["DLI drops less than WCE at half the data", "tile-disjoint"] == "pending"
    assert frame["DLI drops less than WCE at half the data", "all corrected"] == "not planned"
    assert frame["DLI beats focal", "defect-free images validate, published losses"] == "pending"
    assert frame["DLI beats focal", "published losses"] == "not planned"  # neither alone
    assert set(claims.claims("smoke", tmp_path, protocols=["tile-disjoint"])["text"]) == {
        "not planned"
    }


def test_open_choices_are_paired_differences(tmp_path):
    store = Store(tmp_path)
    for until, images in (("filled", [[9, 1, 0]] * 4), ("uniform", [[7, 3, 0]] * 4)):
        run = replace(BASE, method="dli", until=until)
        store.finish(run, record(run, images))
    frame = claims.claims("lite", tmp_path, protocols=["paper's protocol"], which=claims.OPEN)
    texts = frame.set_index("claim")["text"].to_dict()
    assert texts["every defect-free image filled, minus until uniform"] == "0.200 (n = 1)"
    assert texts["widened label, minus the donor's own"] == "pending"


def test_half_the_data_by_hand(tmp_path):
    store = Store(tmp_path)
    for method, fraction, right in (
        ("dli", 1.0, 8),
        ("dli", 0.5, 6),
        ("wce", 1.0, 8),
        ("wce", 0.5, 2),
    ):
        run = replace(BASE, method=method, fraction=fraction)
        last = record(run, [[right + 1, 9 - right, 0]] * 4)["last"]
        store.finish(run, record(run, [[right, 10 - right, 0]] * 4) | {"last": last})
    frame = claims.claims("lite", tmp_path).set_index(["claim", "protocol"])["mean"]
    found = frame["DLI drops less than WCE at half the data"]
    assert found["paper's protocol"] == pytest.approx(6 / 8 - 2 / 8)
    assert found["last epoch"] == pytest.approx(7 / 9 - 3 / 9)


def test_protocols_of_the_last_epoch_take_its_figures(tmp_path):
    for changes in ({}, {"split": "tile"}, {"split": "tile", "free_in_val": True}):
        for method, best, last in (("dli", 9, 5), ("baseline", 6, 7)):
            run = replace(BASE, method=method, **changes)
            after = record(run, [[last, 10 - last, 0]] * 4)["last"]
            found = record(run, [[best, 10 - best, 0]] * 4) | {"last": after}
            Store(tmp_path).finish(run, found)
    frame = claims.claims("lite", tmp_path).set_index(["claim", "protocol"])["mean"]
    found = frame["DLI beats baseline"].dropna().to_dict()
    assert found == {
        "paper's protocol": pytest.approx(0.3),
        "last epoch": pytest.approx(-0.2),
        "tile-disjoint": pytest.approx(0.3),
        "tile-disjoint, last epoch": pytest.approx(-0.2),
        "all corrected": pytest.approx(-0.2),
    }


def fold(parts, curve, positives=10):
    """What a record keeps of every epoch: so many of 10 pixels are found; and of its parts."""
    return {
        "val_tiles": parts,
        "positives": positives,
        "run": {"epochs": len(curve)},
        "history": {"classes": [[[found, 0]] for found in curve]},
        "last": {"classes": [[curve[-1], 0, positives - curve[-1]]]},
    }


def test_only_folds_without_a_common_part_choose_an_epoch():
    seeds = [
        fold([1, 2], [5, 6, 7]),
        fold([2, 3], [1, 2, 9]),  # shares a part with the first
        fold([4], [8, 3, 2]),
        fold([5], [0, 0, 0], positives=0),  # nothing to choose by
    ]
    made = claims.chosen_elsewhere([[seed] for seed in seeds])
    first, second, third, _ = (group[0][claims.OTHERS]["iou"] for group in made)
    assert (first, second) == (0.5, 0.1)  # the first epoch: that at which the third is best
    assert third == 0.2  # the last epoch: of the first two on average


def test_runs_on_different_images_are_not_compared(tmp_path):
    store = Store(tmp_path)
    for method, images in (("baseline", 3), ("dli", 4)):
        run = replace(BASE, method=method)
        store.finish(run, record(run, [[1, 1, 1]] * images))
    with pytest.raises(ValueError, match="validate on different images"):
        claims.claims("lite", tmp_path)


def test_classes_that_nobody_finds_are_called_so(tmp_path):
    for seed in (0, 1):
        run = replace(BASE, method="dli", seed=seed)
        Store(tmp_path).finish(
            run, record(run, [[1, 1, 1]] * 4, classes=[[0, 0, 4], *[[1, 1, 0]] * 4])
        )
    row = tables.class_table("lite", dlilib.records(tmp_path)).set_index("method").loc["dli"]
    assert (row["Blowhole"], row["Break"]) == (
        "not found (n = 2)",
        "0.500 [0.500, 0.500] (n = 2)",
    )
    assert tables.class_table("lite", dlilib.records(tmp_path / "none")).shape == (5, 2)


def test_classes_that_some_runs_find_say_how_many(tmp_path):
    for seed, found in enumerate((0, 5, 5)):
        run = replace(BASE, method="dli", seed=seed)
        classes = [[found, 0, 10 - found], *[[5, 5, 0]] * 4]
        images = [np.sum(classes, axis=0).tolist()]
        Store(tmp_path).finish(run, record(run, images, classes=classes))
    row = tables.class_table("lite", dlilib.records(tmp_path)).set_index("method").loc["dli"]
    assert row["Blowhole"] == "0.333 [0.000, 1.000] (n = 3, found in 2)"
    assert row["Break"] == "0.500 [0.500, 0.500] (n = 3)"


def test_scores_beside_the_micro_iou_by_hand(tmp_path, few_tiles):
    """Two images a run: of classes 1 and 2, as in the data; the second seed finds nothing."""
    rows = [int((few_tiles.labels == label).nonzero()[0]) for label in (1, 2, 2)]
    for seed, found in ((0, 6), (1, 0)):
        run = replace(BASE, method="dli", seed=seed)
        # the last image's mask shows nothing, and what is marked there is wrong
        images = [[found, 2, 6 - found], [found, 0, 12 - found], [0, 2, 0]]
        classes = [[found, 2, 6 - found], [found, 2, 12 - found], *[[0, 0, 0]] * 3]
        Store(tmp_path).finish(
            run, record(run, images, tiles=(1, 2, 3), classes=classes) | {"val_images": rows}
        )
    frame = dlilib.records(tmp_path)
    scores = tables.scores_table("lite", frame).set_index("method")
    assert scores.loc["dli", "precision"] == "0.375 [0.000, 1.000] (n = 2)"  # 12 of 16, 0 of 4
    assert scores.loc["dli", "recall"] == "0.333 [0.000, 1.000] (n = 2)"  # 12 of 18, 0
    mean = (6 / 8 + 6 / 14) / 4  # of two classes and two seeds
    assert scores.loc["dli", "mean class IoU"] == f"{mean:.3f} [0.000, 1.000] (n = 2)"
    assert scores.loc["dli", "images found"] == "2 of 4"
    assert set(scores.loc["wce"][1:]) == {"pending"}
    found = tables.images_found("lite", frame, few_tiles).set_index("method")
    assert found.loc["dli"].to_dict() == {
        "encoder": "resnet18",
        "n": 2,
        "Blowhole": "1 of 2",
        "Break": "1 of 2",
        **dict.fromkeys(("Crack", "Fray", "Uneven"), "–"),
        "all classes": "2 of 4",
    }
    assert found.loc["wce", "n"] == 0 and set(found.loc["wce"][2:]) == {"–"}


def test_classes_without_a_pixel_to_find_have_no_score(tmp_path):
    counts = {0: [NONE_TO_FIND, NONE_TO_FIND], 1: [NONE_TO_FIND, [4, 2, 2]]}
    for seed, (first, second) in counts.items():
        run, classes = replace(BASE, method="dli", seed=seed), [first, second, *[[4, 4, 0]] * 3]
        images = [np.sum(classes, axis=0).tolist()]
        Store(tmp_path).finish(run, record(run, images, classes=classes))
    frame = dlilib.records(tmp_path)
    assert frame["iou_Blowhole"].isna().all()
    assert sorted(frame["iou_Break"].isna()) == [False, True]
    row = tables.class_table("lite", frame).set_index("method").loc["dli"]
    told = row["Blowhole"], row["Break"], row["Crack"]
    assert told == ("–", "0.500 (n = 1)", "0.500 [0.500, 0.500] (n = 2)")
    ax = figures.class_iou_bars(frame, ["Blowhole", "Break", "Crack"])
    ticks = [t.get_text() for t in ax.get_xticklabels()]
    assert ticks == ["all classes", "Blowhole", "Break", "Crack"]
    empty = [t.get_position()[0] for t in ax.texts if t.get_text() == "–"]
    assert empty == pytest.approx([ax.get_xticks()[1]])
    assert "n ≤ 2" in ax.get_xlabel()
    assert "n = 2" in figures.class_iou_bars(frame, ["Crack"]).get_xlabel()
    plt.close("all")


def test_every_cell_of_the_papers_tables_is_ours_or_pending(tmp_path):
    run = replace(BASE, method="dli")
    Store(tmp_path).finish(run, record(run, [[1, 1, 0]] * 4))
    frame = dlilib.records(tmp_path)
    for number, rows in ((1, 5), (2, 3)):
        table = tables.paper_table(number, "lite", frame)
        assert table.shape == (rows, 8)
        ours = table.filter(like="ours").to_numpy().flatten().tolist()
        assert ours.count("0.500 (n = 1)") == 1 and ours.count("pending") == rows - 1
        assert ours.count("not planned") == 3 * rows  # two encoders, and so the average
        assert table.loc["dli" if number == 1 else 0.5, "average, paper"] == "0.800 ± 0.022"


def test_average_is_over_encoders_seed_by_seed(tmp_path):
    base = presets.PRESETS["short"].base
    for seed, encoder, right in [
        (s, e, 5 + s + k) for s in (0, 1) for k, e in enumerate(presets.PAPER_ENCODERS)
    ]:
        run = replace(base, method="wce", encoder=encoder, seed=seed)
        if (seed, encoder) != (1, "resnest50d"):
            Store(tmp_path).finish(run, record(run, [[right, 10 - right, 0]] * 4))
    table = tables.paper_table(1, "short", dlilib.records(tmp_path))
    assert table.loc["wce", "average, ours"] == "0.600 (n = 1)"  # seed 1 lacks an encoder
    assert table.loc["dli", "average, ours"] == "pending"
    other = tables.paper_table(1, "short", dlilib.records(tmp_path), seeds=[1])
    assert (
        other.loc["wce", "resnet18, ours"] == "0.600 (n = 1)"
        and other.loc["wce", "average, ours"] == "pending"
    )


def test_results_page_is_that_of_the_records():
    """`dli report` brings it up to date."""
    assert (ROOT / "results" / "README.md").read_text() == report.report(ROOT / "results")


def test_claims_in_words():
    row = {"encoder": "resnet18", "n": 2, "paper": 0.034, "text": "0.050 [0.010, 0.090] (n = 2)"}
    rows = [
        row | {"claim": "DLI beats baseline", "state": "reproduced", "verdict": "reproduced"},
        row | {"claim": "DLI beats focal", "state": "pending", "verdict": "pending", "n": 0},
        row | {"claim": "DLI beats wce", "state": "undecided", "verdict": "undecided (n = 2)"},
        row | {"claim": "DLI beats balanced", "state": "reproduced", "verdict": "reproduced"},
        row | {"claim": "another", "state": "weaker", "verdict": "weaker", "paper": math.nan},
    ]
    found = pd.DataFrame(rows)
    assert report.lead_in_words(found) == (
        "DLI's lead (resnet18) is reproduced against baseline and balanced; not measured yet "
        "against focal; undecided (n = 2) against wce."
    )
    assert report.claim_in_words(found, "DLI beats focal") == (
        "DLI beats focal (resnet18): pending (the paper: +0.034)."
    )
    assert report.claim_in_words(found, "another") == (
        "another (resnet18): weaker, 0.050 [0.010, 0.090] (n = 2)."
    )


def test_runs_without_a_record_are_trained_only_if_asked(tmp_path):
    assert load_or_train([TINY], tmp_path, compute=False).empty
    frame = load_or_train([TINY], tmp_path)
    assert frame["id"].tolist() == [TINY.id] and frame["seconds"][0] > 0
    assert load_or_train([TINY, replace(TINY, seed=1)], tmp_path, compute=False).equals(frame)
