"""What the paper claims, and what is left of each claim as its protocol is mended."""

from collections.abc import Sequence
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pandas as pd

from dlilib.losses import METHODS, VARIED
from dlilib.run import Run
from dlilib.stats import Estimate, Pair, clustered_difference, estimate
from dlilib.store import Store
from dlilib.study import preset_named

SMALL = ("Blowhole", "Crack")  # the defects below 1 % of an image
PUBLISHED = {"losses": "published"}
# name -> (what differs from the paper's protocol, the same for the competitors only, the epoch that counts)
PROTOCOLS = {
    "paper's protocol": ({}, {}, "best"),
    "last epoch": ({}, {}, "last"),
    "published losses": ({}, PUBLISHED, "best"),
    "free tiles validate": ({"free_in_val": True}, {}, "best"),
    "tile-disjoint": ({"split": "tile"}, {}, "best"),
    "tile-disjoint, last epoch": ({"split": "tile"}, {}, "last"),
    "all mended": ({"split": "tile", "free_in_val": True}, PUBLISHED, "last"),
}
AUDIT = ("all mended", "tile-disjoint, last epoch")  # the harder one first; that with more seeds gives the verdict
DECISIVE = 3  # seeds
CLAIMS = {
    **{f"DLI beats {name}": {"method": name} for name in METHODS if name != "dli"},
    "both blends beat cut-paste": {"p_poisson": 0.0},
    "both blends beat Poisson": {"p_poisson": 1.0},
    "DLI drops less than WCE at half the data": {},
    "DLI helps small defects more than large ones": {"method": "baseline"},
}


def claims(
    preset: str, folder: str | Path, paper: pd.DataFrame, encoders: Sequence[str] = (), seeds: Sequence[int] = ()
) -> pd.DataFrame:
    """Every claim under every protocol, as a difference in micro IoU: a row each.

    folder: of the preset's results. paper: notebooks/paper.csv. Columns: encoder, claim, protocol, paper (the paper's
    difference, NaN where it prints none), mean, low, high, n (seeds), text, verdict. Intervals are over seeds and
    parts, as in `stats.clustered_difference`.
    """
    p, store = preset_named(preset), Store(folder)
    rows = []
    for encoder in encoders or p.encoders:
        for claim, change in CLAIMS.items():
            theirs = _paper(paper, encoder, claim, change)
            for protocol, (everyone, competitors, _) in PROTOCOLS.items():
                if competitors and not everyone and change.get("method") not in VARIED:
                    continue  # that protocol is the paper's own for this claim
                found = _effect(store, replace(p.base, encoder=encoder), seeds or p.seeds, claim, change, protocol)
                rows.append((encoder, claim, protocol, theirs, *astuple(found), str(found), verdict(found, theirs)))
    columns = ["encoder", "claim", "protocol", "paper", "mean", "low", "high", "n", "text", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def verdict(ours: Estimate, paper: float) -> str:
    """In words, never stronger than the interval: "reproduced", "weaker", "not reproduced", "undecided", "pending".

    Below `DECISIVE` seeds nothing is decided: intervals over so few are too narrow.
    """
    if ours.n == 0:
        return "pending"
    if ours.n < DECISIVE:
        return f"undecided (n = {ours.n})"
    if ours.high < 0 or ours.low == ours.high == 0:
        return "not reproduced"
    if not ours.low > 0:
        return f"undecided (n = {ours.n})"
    return "weaker" if ours.high < paper else "reproduced"


def verdicts(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of `claims` that decide: for each claim the paper's own protocol, and the audit."""
    rows = []
    for (encoder, claim), found in frame.groupby(["encoder", "claim"], sort=False):
        by = found.set_index("protocol")
        audit = max(AUDIT, key=lambda name: by.loc[name, "n"])  # of as many seeds, the harder one
        ours, audited = by.loc["paper's protocol"], by.loc[audit]
        rows.append((encoder, claim, ours.paper, ours.text, ours.verdict, audit, audited.text, audited.verdict))
    columns = ["encoder", "claim", "paper", "paper's protocol", "reproduced?", "audit", "under it", "survives?"]
    return pd.DataFrame(rows, columns=columns)


def _paper(paper: pd.DataFrame, encoder: str, claim: str, change: dict) -> float:
    if "beat" not in claim:
        return float("nan")  # the paper draws it, but prints no number
    means = paper[paper["encoder"] == encoder].set_index(["table", "method", "p_poisson"])["mean"]
    if "method" in change:
        table = means.loc[1].droplevel("p_poisson")
        return float(table["dli"] - table[change["method"]])
    return float(means.loc[2, "dli", 0.5] - means.loc[2, "dli", change["p_poisson"]])


def _effect(store: Store, base: Run, seeds: Sequence[int], claim: str, change: dict, protocol: str) -> Estimate:
    everyone, competitors, epoch = PROTOCOLS[protocol]
    published = competitors if change.get("method") in VARIED else {}
    runs = [replace(base, seed=seed, **everyone) for seed in seeds]
    if claim.startswith("DLI drops"):
        return estimate([x for run in runs if (x := _drop_difference(store, run, epoch)) is not None])
    pairs = [(store.record(run), store.record(replace(run, **change, **published))) for run in runs]
    pairs = [pair for pair in pairs if all(pair)]
    if claim.startswith("DLI helps"):
        return estimate([_small_less_large(*pair, epoch) for pair in pairs])
    return clustered_difference([_pair(*pair, epoch) for pair in pairs])


def _pair(ours: dict, theirs: dict, epoch: str) -> Pair:
    if ours["val_images"] != theirs["val_images"]:
        raise ValueError(f"{ours['id']} and {theirs['id']} validate on different images: not to be compared")
    return Pair(*(np.array(r[epoch]["images"]) for r in (ours, theirs)), np.array(ours["val_tiles"]))


def _small_less_large(ours: dict, theirs: dict, epoch: str) -> float:
    """Mean gain in IoU, ours less theirs, over the small classes less that over the others."""
    counts = (np.array(record[epoch]["classes"], float) for record in (ours, theirs))
    gain = np.subtract(*(c[:, 0] / np.maximum(c.sum(axis=1), 1) for c in counts))
    small = np.isin(ours["data"]["classes"], SMALL)
    return float(gain[small].mean() - gain[~small].mean())


def _drop_difference(store: Store, run: Run, epoch: str) -> float | None:
    """How much less DLI loses than WCE from all of the data to half of it, relative to each one's all."""
    change = []
    for method in ("dli", "wce"):
        whole, half = (store.record(replace(run, method=method, fraction=f)) for f in (1.0, 0.5))
        if not (whole and half):
            return None
        change.append(half[epoch]["iou"] / max(whole[epoch]["iou"], 1e-9) - 1)
    return change[0] - change[1]
