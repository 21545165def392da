import math
from dataclasses import astuple

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from dlilib import Run
from dlilib.analysis.stats import (
    Estimate,
    Pair,
    bootstrap,
    clustered_difference,
    deviation_interval,
    drop,
    estimate,
    power,
    seeds_to_decide,
    summarise,
)
from dlilib.metrics import iou_score


def test_mean_and_interval_of_equal_values_are_that_value():
    assert estimate([0.5] * 6) == Estimate(0.5, 0.5, 0.5, 6)


def test_level_is_that_of_both_intervals_of_a_difference():
    rng = np.random.default_rng(0)
    parts = np.arange(8)
    pairs = [Pair(*rng.integers(1, 50, (2, 8, 3)), parts) for _ in range(3)]
    wide, narrow = (clustered_difference(pairs, level) for level in (0.95, 0.5))
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high
    wide, narrow = (bootstrap(pairs, level) for level in (0.95, 0.5))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    # Student's t alone is the wider one of a single part: its level counts there
    pairs = [Pair(ours[:1], theirs[:1], parts[:1]) for ours, theirs, _ in map(astuple, pairs)]
    differences = [iou_score(*p.ours[0]) - iou_score(*p.theirs[0]) for p in pairs]
    found = clustered_difference(pairs, 0.5)
    assert found.low <= estimate(differences, 0.5).low and found.low > estimate(differences).low


def test_two_values_by_hand():
    # t with one degree of freedom is Cauchy's: its 0.75 quantile is 1; the standard error of two is
    # half their distance.
    assert estimate([0.2, 0.6], level=0.5) == Estimate(
        *[pytest.approx(x) for x in (0.4, 0.2, 0.6)], 2
    )
    assert estimate([0.2, 0.6]).high == pytest.approx(0.4 + 12.7062 * 0.2, abs=1e-4)


def test_interval_is_cut_at_what_is_known():
    e = estimate([0.2, 0.6], within=(0, 1))
    assert (e.low, e.high) == (0, 1)
    assert estimate([0.2, 0.6], level=0.5, within=(0, 0.5)) == Estimate(
        *[pytest.approx(x) for x in (0.4, 0.2, 0.5)], 2
    )


@pytest.mark.parametrize("seed", range(10))
def test_interval_holds_the_mean_and_shrinks_with_its_level(seed):
    values = np.random.default_rng(seed).gamma(2, size=3 + seed)
    e = estimate(values)
    assert e.low < e.mean < e.high and e.mean == pytest.approx(values.mean()) and e.n == len(values)
    narrow = estimate(values, level=0.5)
    assert e.low < narrow.low < narrow.high < e.high


@pytest.mark.parametrize("level", [0.95, 0.8])
def test_agrees_with_scipys_t_test(level):
    values = np.random.default_rng(0).normal(0.8, 0.05, 5)
    theirs = ttest_1samp(values, 0).confidence_interval(level)
    assert [estimate(values, level).low, estimate(values, level).high] == pytest.approx(
        [theirs.low, theirs.high]
    )


@pytest.mark.parametrize("n", [2, 3, 5])
def test_interval_covers_the_truth_as_often_as_it_says(n):
    draws = np.random.default_rng(n).normal(0.7, 0.05, (2000, n))
    covered = [e.low <= 0.7 <= e.high for e in map(estimate, draws)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


def test_estimate_keeps_the_deviation_over_seeds():
    assert estimate([0.2, 0.6]).deviation == pytest.approx(0.08**0.5)
    assert math.isnan(estimate([0.2]).deviation)


@pytest.mark.parametrize(("mean", "n"), [(0.5, 3), (1.0, 5), (-1.0, 5), (2.0, 4)])
def test_power_is_the_share_of_studies_that_decide(mean, n):
    draws = np.random.default_rng(n).normal(abs(mean), 1, (3000, n))
    decided = np.mean([e.low > 0 for e in map(estimate, draws)])
    assert power(mean, 1, n) == pytest.approx(decided, abs=0.03)


def test_seeds_to_decide_are_the_first_with_enough_power():
    n = seeds_to_decide(0.034, 0.024)
    assert power(0.034, 0.024, n) >= 0.8 > power(0.034, 0.024, n - 1)
    assert seeds_to_decide(0.1, 0.0) == 2  # the values are all alike
    assert seeds_to_decide(0.0, 0.1) is seeds_to_decide(math.nan, 0.1) is None
    assert seeds_to_decide(0.1, math.nan) is None


def test_a_mean_that_rounds_to_nothing_has_no_sign():
    assert str(Estimate(-0.0001, -0.0002, 0.1, 3)) == "0.000 [0.000, 0.100] (n = 3)"


@pytest.mark.parametrize("n", [3, 5])
def test_interval_of_a_deviation_holds_it_as_often_as_it_says(n):
    draws = np.random.default_rng(n).normal(0, 0.03, (3000, n)).std(axis=1, ddof=1)
    ends = [deviation_interval(deviation, n) for deviation in draws]
    assert np.mean([low <= 0.03 <= high for low, high in ends]) == pytest.approx(0.95, abs=0.02)


def test_nothing_and_a_single_value():
    nothing, single = estimate([]), estimate([0.75])
    assert (
        nothing.n == 0
        and math.isnan(nothing.mean)
        and math.isnan(nothing.low)
        and math.isnan(nothing.high)
    )
    assert (
        single.n == 1 and single.mean == 0.75 and math.isnan(single.low) and math.isnan(single.high)
    )


def test_text_of_an_estimate():
    assert str(estimate([])) == "pending"
    assert str(estimate([0.75])) == "0.750 (n = 1)"
    assert str(Estimate(0.8, 0.78125, 0.82, 5)) == "0.800 [0.781, 0.820] (n = 5)"


def test_seeds_without_anything_to_find_are_left_out():
    assert estimate([0.2, math.nan, 0.6]) == estimate([0.2, 0.6])
    single = estimate([math.nan, 0.75])
    assert (single.mean, single.n, str(single)) == (0.75, 1, "0.750 (n = 1)")
    nothing = estimate([math.nan, math.nan])
    assert math.isnan(nothing.mean) and math.isnan(nothing.high) and nothing.n == 2
    assert str(nothing) == "–"  # not pending: the runs are finished


def test_pairs_without_anything_to_find_are_left_out():
    parts = np.array([1, 2])
    found = Pair(np.array([[8, 2, 0], [4, 2, 4]]), np.array([[4, 0, 4], [4, 2, 4]]), parts)
    nothing = Pair(np.array([[0, 9, 0]] * 2), np.array([[0, 0, 0]] * 2), parts)
    alone = clustered_difference([found, nothing])
    assert (alone.mean, alone.n) == (pytest.approx(12 / 20 - 8 / 18), 1)
    assert clustered_difference([found, nothing, found]) == clustered_difference([found] * 2)
    assert str(clustered_difference([nothing] * 2)) == "–"


def test_inputs_are_not_changed():
    values = np.array([0.3, 0.1, 0.2])
    estimate(values)
    assert values.tolist() == [0.3, 0.1, 0.2]


@pytest.mark.parametrize(
    "values, level, message",
    [
        ([[0.1, 0.2]], 0.95, r"\(num_seeds,\), got shape \(1, 2\)"),
        (0.5, 0.95, r"got shape \(\)"),
        ([0.1, 0.2], 0, r"level must lie in \(0, 1\), got 0"),
        ([0.1, 0.2], 1, "level.*1"),
        ([0.1, 0.2], 95, "level.*95"),
    ],
)
def test_wrong_values_and_levels_raise(values, level, message):
    with pytest.raises(ValueError, match=message):
        estimate(values, level)


def runs_and_frame():
    """Runs of three methods and two encoders, of which some are finished.

    dli 3 of 3, wce 1 of 3, focal none.
    """
    runs = [
        Run(method=method, encoder=encoder, seed=seed)
        for method in ("dli", "wce", "focal")
        for encoder in ("resnet18", "mobileone_s1")
        for seed in range(3)
    ]
    value = {("dli", "resnet18"): [0.8, 0.7, 0.9], ("dli", "mobileone_s1"): [0.6, 0.7, 0.8]}
    value |= {("wce", "resnet18"): [0.75], ("wce", "mobileone_s1"): [0.5, 0.4]}
    rows = [
        {
            "id": run.id,
            "method": run.method,
            "encoder": run.encoder,
            "seed": run.seed,
            "iou_best": v,
            "iou_last": v / 2,
        }
        for run in runs
        for v in value.get((run.method, run.encoder), [])[run.seed : run.seed + 1]
    ]
    return runs, pd.DataFrame(rows)


def test_summarise_gives_a_row_for_each_planned_combination_in_order():
    runs, frame = runs_and_frame()
    table = summarise(runs, frame, ["method", "encoder"])
    assert list(table.columns) == ["method", "encoder", "mean", "low", "high", "n", "text"]
    order = [(m, e) for m in ("dli", "wce", "focal") for e in ("resnet18", "mobileone_s1")]
    assert list(zip(table.method, table.encoder, strict=True)) == order
    assert table.n.tolist() == [3, 3, 1, 2, 0, 0]
    assert table["mean"].tolist() == pytest.approx(
        [0.8, 0.7, 0.75, 0.45, np.nan, np.nan], nan_ok=True
    )
    assert table.text.tolist()[2:3] == ["0.750 (n = 1)"] and table.text.tolist()[4:] == [
        "pending",
        "pending",
    ]
    first = estimate([0.8, 0.7, 0.9], within=(0, 1))
    assert (table.low[0], table.high[0], table.text[0]) == (first.low, first.high, str(first))


def test_summarise_pools_what_by_does_not_name_and_takes_another_value():
    runs, frame = runs_and_frame()
    table = summarise(runs, frame.sample(frac=1, random_state=0), ["method"], value="iou_last")
    assert table.method.tolist() == ["dli", "wce", "focal"] and table.n.tolist() == [6, 3, 0]
    assert table["mean"].tolist()[:2] == pytest.approx([4.5 / 6 / 2, 1.65 / 3 / 2])


def test_summarise_ignores_records_that_were_not_planned():
    runs, frame = runs_and_frame()
    stray = pd.DataFrame([{**frame.iloc[0], "id": Run(method="dli", epochs=7).id, "iou_best": 0.0}])
    table = summarise(runs, pd.concat([frame, stray]), ["method"])
    pd.testing.assert_frame_equal(table, summarise(runs, frame, ["method"]))


def test_summarise_of_no_records_is_pending():
    runs, frame = runs_and_frame()
    table = summarise(runs, frame[:0], ["method"])
    assert table.text.tolist() == ["pending"] * 3


def test_drop_compares_each_seed_with_itself():
    rows = [("dli", 0, 1.0, 0.8), ("dli", 1, 1.0, 0.2), ("dli", 0, 0.5, 0.6), ("dli", 2, 0.5, 0.9)]
    frame = pd.DataFrame(
        [*rows, ("wce", 0, 0.5, 0.4)], columns=["method", "seed", "fraction", "iou_best"]
    )
    found = drop(frame)
    assert (
        found.loc[0.5, "dli"] == pytest.approx(-25) and found.loc[1.0, "dli"] == 0
    )  # seed 0 alone has both
    assert found["wce"].isna().all()
    assert drop(frame[:0]).empty


def test_drop_compares_methods_over_the_same_seeds():
    whole = [("dli", 0, 1.0, 0.8), ("dli", 1, 1.0, 0.8), ("wce", 0, 1.0, 0.8)]
    halves = [("dli", 0, 0.5, 0.4), ("dli", 1, 0.5, 0.8), ("wce", 0, 0.5, 0.6)]
    columns = ["method", "seed", "fraction", "iou_best"]
    found = drop(pd.DataFrame(whole + halves, columns=columns))
    assert found.loc[0.5, ["dli", "wce"]].tolist() == pytest.approx([-50, -25])  # of seed 0
