"""What the paper claims, and what is left of each claim as its protocol is mended."""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dlilib.losses import METHODS, VARIED
from dlilib.run import Run
from dlilib.stats import Estimate, Pair, clustered_difference, estimate
from dlilib.store import Store
from dlilib.study import all_runs, preset_named

SMALL = ("Blowhole", "Crack")  # the defects below 1 % of an image
FLOOR = 0.05  # below this IoU of the small defects, in every run, gains in it say nothing
PUBLISHED = {"losses": "published"}
# name -> (what differs from the paper's protocol, the same for the competitors only, the epoch that counts)
PROTOCOLS = {
    "paper's protocol": ({}, {}, "best"),
    "last epoch": ({}, {}, "last"),
    "published losses": ({}, PUBLISHED, "best"),
    "free tiles validate": ({"free_in_val": True}, {}, "best"),
    "free tiles validate, published losses": ({"free_in_val": True}, PUBLISHED, "best"),
    "solid masks": ({"threshold": 127}, {}, "best"),
    "tile-disjoint": ({"split": "tile"}, {}, "best"),
    "tile-disjoint, last epoch": ({"split": "tile"}, {}, "last"),
    "all mended": ({"split": "tile", "free_in_val": True}, PUBLISHED, "last"),
}
AUDIT = ("all mended", "tile-disjoint, last epoch")  # the harder one first; that with more seeds gives the verdict


def _gain(groups: list[list[dict]], epoch: str) -> Estimate:
    """Micro IoU of ours less theirs."""
    return clustered_difference([pair(*group, epoch) for group in groups])


def _smaller_drop(groups: list[list[dict]], epoch: str) -> Estimate:
    """How much less of its IoU ours loses than theirs from all of the data to half of it."""
    kept = [[half[epoch]["iou"] / max(whole[epoch]["iou"], 1e-9) for whole, half in (g[:2], g[2:])] for g in groups]
    return estimate([ours - theirs for ours, theirs in kept])


def _small_less_large(groups: list[list[dict]], epoch: str) -> Estimate:
    """Mean gain in IoU over the small classes less that over the others."""
    small = np.isin(groups[0][0]["data"]["classes"], SMALL) if groups else []
    gains = [np.subtract(*(class_iou(record, epoch) for record in group)) for group in groups]
    return estimate([gain[small].mean() - gain[~small].mean() for gain in gains])


@dataclass(frozen=True)
class Claim:
    """A comparison of DLI's runs with others."""

    rival: dict[str, Any]  # the fields in which the other run differs
    measure: Callable[[list[list[dict]], str], Estimate] = _gain  # of each seed's records, ours first, at an epoch
    fractions: tuple[float, ...] = (1.0,)  # of the training data; a run of each for ours, then for the other


CLAIMS = {
    **{f"DLI beats {name}": Claim({"method": name}) for name in METHODS if name != "dli"},
    "both blends beat cut-paste": Claim({"p_poisson": 0.0}),
    "both blends beat Poisson": Claim({"p_poisson": 1.0}),
    "DLI drops less than WCE at half the data": Claim({"method": "wce"}, _smaller_drop, (1.0, 0.5)),
    "DLI helps small defects more than large ones": Claim({"method": "baseline"}, _small_less_large),
}
OPEN = {  # what DLI leaves open: its released choice, less the other one
    "every free image filled, less until uniform": Claim({"until": "uniform"}),
    "Poisson on the rectangle, less on the mask": Claim({"region": "mask"}),
    "mixed gradients, less the donor's": Claim({"guidance": "donor"}),
    "widened label, less the donor's own": Claim({"label": "tight"}),
}


def claims(
    preset: str, folder: str | Path, paper: pd.DataFrame, encoders: Sequence[str] = (), seeds: Sequence[int] = (),
    protocols: Iterable[str] = tuple(PROTOCOLS), which: dict[str, Claim] = CLAIMS,
) -> pd.DataFrame:
    """Every claim under every protocol, as a difference: a row each.

    folder: of the preset's results. paper: notebooks/paper.csv. which: `CLAIMS` or `OPEN`. Columns: encoder, claim,
    protocol, paper (the paper's difference, NaN where it prints none), mean, low, high, n (seeds), text, verdict.
    Intervals are those of `stats.clustered_difference`, or of `stats.estimate` where a claim is not about one pair.
    """
    p, read, planned = preset_named(preset), functools.cache(Store(folder).record), set(all_runs(preset))
    rows = []
    for encoder, (name, claim), protocol in itertools.product(encoders or p.encoders, which.items(), protocols):
        needed = [_runs(replace(p.base, encoder=encoder, seed=s), claim, protocol) for s in seeds or p.seeds]
        if not all(needed):
            continue
        groups = [[read(run) for run in runs] for runs in needed]
        groups, epoch = [group for group in groups if all(group)], PROTOCOLS[protocol][2]
        found, theirs = claim.measure(groups, epoch), _paper(paper, encoder, name, claim.rival)
        text, word = str(found), verdict(found, theirs)
        if not groups and not any(planned.issuperset(runs) for runs in needed):
            text = word = "not planned"
        if groups and claim.measure is _small_less_large and _at_floor(groups, epoch):
            word = f"not measurable (small defects below IoU {FLOOR})"
        rows.append((encoder, name, protocol, theirs, *astuple(found), text, word))
    columns = ["encoder", "claim", "protocol", "paper", "mean", "low", "high", "n", "text", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def verdict(ours: Estimate, paper: float) -> str:
    """In words, never stronger than the interval: "reproduced", "weaker", "not reproduced", "undecided", "pending"."""
    if ours.n == 0:
        return "pending"
    if ours.high < 0:
        return "not reproduced"
    if not ours.low > 0:
        return f"undecided (n = {ours.n})"
    return "weaker" if ours.high < paper else "reproduced"


def verdicts(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of `claims` that decide: for each claim the paper's own protocol, and the audit."""
    rows = []
    for (encoder, claim), found in frame.groupby(["encoder", "claim"], sort=False):
        by = found.set_index("protocol")
        # of as many seeds, the harder one
        audit = max(AUDIT, key=lambda name: (by.loc[name, "n"], by.loc[name, "text"] != "not planned"))
        ours, audited = by.loc["paper's protocol"], by.loc[audit]
        rows.append((encoder, claim, ours.paper, ours.text, ours.verdict, audit, audited.text, audited.verdict))
    columns = ["encoder", "claim", "paper", "paper's protocol", "reproduced?", "audit", "under it", "survives?"]
    return pd.DataFrame(rows, columns=columns)


def _runs(ours: Run, claim: Claim, protocol: str) -> list[Run]:
    """One seed's runs that the claim needs under the protocol; none where that is the paper's own for this claim."""
    everyone, competitors, _ = PROTOCOLS[protocol]
    varied = claim.rival.get("method") in VARIED
    if competitors and not everyone and not varied:
        return []
    theirs = claim.rival | (competitors if varied else {})
    return [replace(ours, **everyone, **rival, fraction=f) for rival in ({}, theirs) for f in claim.fractions]


def _paper(paper: pd.DataFrame, encoder: str, claim: str, rival: dict) -> float:
    if "beat" not in claim:
        return float("nan")  # the paper draws it, but prints no number
    means = paper[paper["encoder"] == encoder].set_index(["table", "method", "p_poisson"])["mean"]
    if "method" in rival:
        table = means.loc[1].droplevel("p_poisson")
        return float(table["dli"] - table[rival["method"]])
    return float(means.loc[2, "dli", 0.5] - means.loc[2, "dli", rival["p_poisson"]])


def pair(ours: dict, theirs: dict, epoch: str) -> Pair:
    """Two records' pixel counts at an epoch, "best" or "last"; ValueError unless they validate on the same images."""
    if ours["val_images"] != theirs["val_images"]:
        raise ValueError(f"{ours['id']} and {theirs['id']} validate on different images: not to be compared")
    return Pair(*(np.array(r[epoch]["images"]) for r in (ours, theirs)), np.array(ours["val_tiles"]))


def class_iou(record: dict, epoch: str) -> np.ndarray:
    """IoU of each class at an epoch, "best" or "last": (K,), 0 where nothing is marked or meant."""
    counts = np.array(record[epoch]["classes"], float)  # (K, 3)
    return counts[:, 0] / np.maximum(counts.sum(axis=1), 1)


def _at_floor(groups: list[list[dict]], epoch: str) -> bool:
    small = np.isin(groups[0][0]["data"]["classes"], SMALL)
    return all(class_iou(record, epoch)[small].max() < FLOOR for group in groups for record in group)
