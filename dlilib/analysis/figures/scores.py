"""Figures of what the runs' records say: IoU, its differences, and features."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from dlilib.analysis.claims import FLOOR, audited
from dlilib.analysis.few_shot import INTERPRETATION
from dlilib.analysis.figures.style import (
    HEADER,
    METHOD_COLOURS,
    PALETTE,
    SMALL,
    axes_or_new,
    legend_below,
    name_rows,
    panels,
    percent,
    seeds,
    state,
    state_all,
    styled,
    wrapped,
)
from dlilib.analysis.paper import printed
from dlilib.analysis.referee import quarters
from dlilib.analysis.stats import IOU_RANGE, estimate
from dlilib.analysis.tables import ALL, PAPER_IMAGES, learning_curve
from dlilib.losses import METHODS
from dlilib.metrics import NOTHING, shown
from dlilib.wording import counted, listed

ABBREVIATIONS = ("dli", "wce")  # methods whose names are written in capitals
SLOT = 0.16  # width of a bar, where the groups of bars are 1 apart
DISTINCT = 5  # colours of lines that are told apart; further lines are dashed
SMOOTHED = 9  # epochs: one alone is noisy
LINE = 0.11  # inches between the points of one claim
BAR = 0.2  # inches between the bars of one few-shot variant
REACH = 3  # times the farthest difference: there longer intervals of claims are cut off


@styled
def class_iou_bars(frame: pd.DataFrame, classes: Sequence[str], ax: Axes | None = None) -> Axes:
    """Draw Figure 3: IoU of each class and method, with a red line at DLI's level.

    Bars are means over the runs, with 95 % intervals, and dots the single runs. A class's IoU is
    that of all pixels in its own images, as the authors measure it, or, where the records do not
    tell these, of the class's own pixels. The first group is the micro IoU over all classes. For
    the Magnetic Tiles split by image, the mean ± standard deviation of the paper's Table 1 stands
    there beside each bar (black diamond), and a method of the paper without a finished run is
    "pending". A class without a pixel to find in any run's validation images is marked "–".

    Args:
        frame: The runs' records, as `records.records` gives them.
        classes: Names of the defect classes.
        ax: Where to draw; None: on a new figure.
    """
    by_images = frame.filter(like="image_iou_").notna().any(axis=None)
    prefix, of = ("image_iou_", ", of a class's images") if by_images else ("iou_", "")
    columns = {"iou_best": ALL, **{f"{prefix}{name}": name for name in classes}}
    scores = frame.reindex(columns=["encoder", "method", "seed", *columns]).rename(columns=columns)
    finished = [method for method in METHODS if method in set(scores["method"])]
    paper = _printed(frame)
    ax = axes_or_new(ax, 4.2)
    first, slot = (list(METHODS), 2 * SLOT) if paper else (finished, SLOT)
    centre = len(first) * slot / 2
    _draw_bars(ax, scores, ALL, first, centre, slot)
    for i, method in enumerate(first):
        _draw_paper(ax, paper.get(method, []), (i + 0.75) * slot)
    centres = [centre, *(len(first) * slot + 0.7 + np.arange(len(classes)))]
    for name, centre in zip(classes, centres[1:], strict=True):
        _draw_bars(ax, scores, name, finished, centre, SLOT)
    encoders = ", ".join(frame["encoder"].unique())
    ax.set(xlim=(-SLOT, centres[-1] + 0.5), ylim=(0, 1), ylabel=f"IoU at the best epoch{of}")
    n = _seeds(scores, classes)
    ax.set_xlabel(f"{encoders}; {n}; dots: runs; 95 % intervals where n > 1; red line: DLI")
    ax.set_xticks(centres, [ALL, *classes])
    ax.tick_params(axis="x", length=0)
    if ax.get_legend_handles_labels()[0]:
        legend_below(ax, columns=6, lines=2)
    state(ax, _best_method(scores, classes))
    return ax


def _printed(frame: pd.DataFrame) -> dict[str, list[tuple[float, float]]]:
    """Method -> mean and standard deviation in the paper's Table 1, for each of the encoders."""
    if not (frame["data"].eq("magnetic_tiles") & frame["split"].eq("image")).all():
        return {}
    found = {
        method: [printed(1, encoder, method) for encoder in frame["encoder"].unique()]
        for method in METHODS
    }
    return {method: [m for m in marks if m] for method, marks in found.items() if any(marks)}


def _draw_bars(
    ax: Axes, scores: pd.DataFrame, name: str, methods: Sequence[str], centre: float, slot: float
) -> None:
    """A bar for each method, in the first part of its slot, and the line at DLI's level."""
    start = centre - len(methods) * slot / 2
    for i, method in enumerate(methods):
        place = start + i * slot + SLOT / 2
        spoken = _spoken(method)
        values = scores.loc[scores["method"] == method, name]
        found = estimate(values, within=IOU_RANGE)
        if found.n == 0:
            text = f"{spoken}: pending"
            ax.text(place, 0.02, text, rotation=90, ha="center", fontsize=SMALL, color="0.4")
        elif not np.isnan(found.mean):
            ends = np.nan_to_num([[found.mean - found.low], [found.high - found.mean]])
            style = {"color": METHOD_COLOURS[method], "label": spoken if name == ALL else None}
            ax.bar(place, found.mean, 0.9 * SLOT, yerr=ends, error_kw={"linewidth": 1}, **style)
            dots = {"color": "white", "markeredgecolor": "black", "markersize": 3, "zorder": 3}
            ax.plot(np.full(len(values), place), values, "o", markeredgewidth=0.6, **dots)
    if len(scores) and scores[name].isna().all():
        ax.text(centre, 0.02, NOTHING, ha="center")
    level = scores.loc[scores["method"] == "dli", name].mean()
    half = max(len(methods) * slot, 0.5) / 2
    ax.hlines(level, centre - half, centre + half, color="crimson", linewidth=1)


def _draw_paper(ax: Axes, marks: Sequence[tuple[float, float]], place: float) -> None:
    """The paper's mean ± standard deviation of one method, for each of the encoders."""
    for i, (mean, deviation) in enumerate(marks):
        label = "paper (Table 1)"
        known = label in ax.get_legend_handles_labels()[1]
        ax.errorbar(
            place + 0.06 * (i - (len(marks) - 1) / 2),  # beside each other
            mean,
            deviation,
            fmt="D",
            color="black",
            markersize=4,
            linewidth=1,
            label=None if known else label,
        )


def _seeds(scores: pd.DataFrame, classes: Sequence[str]) -> str:
    """How many runs each bar is the mean of."""
    counts = scores.groupby(["encoder", "method"])[list(classes)].count().to_numpy()
    return seeds(counts.min(), counts.max()) if counts.size else seeds(0, 0)


def _best_method(scores: pd.DataFrame, classes: Sequence[str]) -> str:
    """In how many classes DLI has the highest IoU, over the seeds that each finished method has."""
    finished = scores["method"].nunique()
    methods = scores.groupby(["encoder", "seed"])["method"].transform("nunique")
    by_method = scores[methods == finished].groupby("method")[list(classes)]
    means = by_method.mean().dropna(axis="columns", how="all")
    if means.empty:
        return "No seed has all finished methods yet" if finished > 1 else "No IoU is measured yet"
    iou = _mean_iou(by_method.count().to_numpy().max())
    if len(means) == 1:
        alone = means.iloc[0]
        low, high = alone.idxmin(), alone.idxmax()
        span = f"{alone[low]:.2f} ({low}) to {alone[high]:.2f} ({high})"
        return f"{_spoken(means.index[0])} alone is finished: {iou} from {span}"
    best = means.eq(means.max()) & (means.eq(means.max()).sum() == 1)  # (M, K), False where tied
    wins = best.sum(axis="columns")
    ours = "dli" if "dli" in wins else wins.idxmax()
    text = f"{_spoken(ours)} has the highest {iou} in {wins[ours]} of {means.shape[1]} classes"
    if len(means) < len(METHODS):
        text += f", of {len(means)} finished methods"
    if (methods == finished).all():
        return text
    common = counted(scores.loc[methods == finished, "seed"].nunique(), "seed")
    return f"{text}, over the {common} that all have"


def _spoken(method: str) -> str:
    return method.upper() if method in ABBREVIATIONS else method


def _mean_iou(n: int) -> str:
    return "IoU" if n == 1 else "mean IoU"


@styled
def data_fraction(
    summary: pd.DataFrame, drop: pd.DataFrame, axes: Sequence[Axes] | None = None
) -> Sequence[Axes]:
    """Draw Figure 5: IoU against the share of training data, and its drop from all of the data.

    Args:
        summary: method, fraction, mean, low, high and n, as `stats.summarise` gives them. Rows that
            are pending are left out.
        drop: As `stats.drop` gives it.
        axes: Two to draw on; None: those of a new figure.

    Returns:
        The two Axes.
    """
    axes = panels(2, 5.6, sharex=True) if axes is None else axes
    absolute, relative = axes
    finished = summary.dropna(subset="mean").sort_values("fraction")
    for method, found in finished.groupby("method"):
        style = {"color": METHOD_COLOURS[method], "marker": "o"}
        percents = 100 * found["fraction"]
        absolute.errorbar(percents, found["mean"], _error_bars(found), capsize=3, **style)
        change = drop[method].dropna()
        relative.plot(100 * change.index, change, **style)
    _name_lines(absolute, finished.pivot(index="fraction", columns="method", values="mean"))
    _name_lines(relative, drop)
    n = seeds(finished["n"].min(), finished["n"].max()) if len(finished) else seeds(0, 0)
    relative.set_xticks(100 * summary["fraction"].unique())
    absolute.set_ylabel("mean micro IoU, 95 % interval")
    relative.set(xlabel=f"training data, %; {n}", ylabel="change from 100 %, %")
    state(absolute, _change_at_half(drop))
    return axes


def _name_lines(ax: Axes, lines: pd.DataFrame) -> None:
    """Write each method's name left of its line; lines: a column each, a row for each share."""
    starts = {name: line.dropna().sort_index() for name, line in lines.items()}
    starts = {name: line for name, line in starts.items() if len(line)}
    low, high = ax.get_ylim()
    height = -np.inf
    for name, line in sorted(starts.items(), key=lambda start: start[1].iloc[0]):
        height = max(line.iloc[0], height + 0.08 * (high - low))  # or names overlap
        ax.annotate(
            _spoken(name),
            (100 * line.index[0], height),
            (-8, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            color=METHOD_COLOURS[name],
        )
    ax.margins(x=0.12)


def _error_bars(rows: pd.DataFrame) -> np.ndarray:
    """Lengths (2, N) of the error bars below and above the means: 0 where there is no interval."""
    return np.nan_to_num([rows["mean"] - rows["low"], rows["high"] - rows["mean"]])


def _change_at_half(drop: pd.DataFrame) -> str:
    """The change of IoU at half of the data, or where that is pending at the least share."""
    shares = [share for share in drop.dropna(how="all").index if share < 1]
    if not shares:
        return "No change from all of the training data is measured yet"
    share = 0.5 if 0.5 in shares else min(shares)
    changes = drop.loc[share].dropna().round() + 0.0  # no "-0 %"
    told = [f"{change:+.0f} % ({_spoken(name)})" for name, change in changes.items()]
    text = f"At {percent(share)} of the training data the IoU changes by {listed(told)}"
    return text.replace("-", "−")


@styled
def learning_curves(records: dict[str, dict]) -> list[Axes]:
    """Draw IoU on the validation images against training images seen.

    One panel is for all classes, and one for each class; one without a pixel to find in any run's
    validation images is marked "–". On the Magnetic Tiles the first panel marks how many images the
    authors' code trains on.

    Args:
        records: Title -> record; each is a line.

    Returns:
        The Axes.
    """
    curves = {title: learning_curve(record) for title, record in records.items()}
    names = list(next(iter(curves.values()))["what"].unique())
    height = 1.2 + 1.7 * -(-len(names) // 2) + 0.17 * len(records)
    axes = panels(len(names), height, columns=2, sharex=True, sharey=True)
    for k, (title, curve) in enumerate(curves.items()):
        style = {"color": PALETTE[k % DISTINCT], "linestyle": ("-", "--")[k // DISTINCT % 2]}
        for ax, (_, found) in zip(axes, curve.groupby("what", sort=False), strict=False):
            ax.plot(found["images"], found["IoU"], label=title, linewidth=1.2, **style)
    for ax, name in zip(axes, names, strict=True):
        ax.set(xscale="log", ylim=(-0.03, 1))
        ax.set_title(name, fontsize="medium", weight="normal")
        if all(np.isnan(line.get_ydata()).all() for line in ax.lines):
            ax.text(0.5, 0.5, NOTHING, transform=ax.transAxes, ha="center", fontsize="x-large")
    _mark_powers_of_ten(axes[0])
    if all(record["run"]["data"] == "magnetic_tiles" for record in records.values()):
        _mark_paper(axes[0])
    for ax in axes[-2:]:
        ax.tick_params(labelbottom=True)  # an odd number of panels ends in two rows
        ax.set_xlabel("training images seen")
    figure = axes[0].figure
    figure.supylabel("IoU of the validation images", fontsize=SMALL)
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower left",
        title=f"n = {counted(len(records), 'run')}; found: IoU ≥ {FLOOR:g}",
        alignment="left",
        handlelength=2.2,
    )
    state_all(axes[0], _classes_found(pd.concat(curves.values())))
    return axes


def _mark_paper(ax: Axes) -> None:
    """Mark how many images the authors' code trains on."""
    ax.axvline(PAPER_IMAGES, color="0.4", linestyle=":")
    text = f"released: {PAPER_IMAGES:,}"
    where = {"textcoords": "offset points", "rotation": 90}
    ax.annotate(text, (PAPER_IMAGES, 0), (-2, 4), ha="right", fontsize=SMALL, color="0.4", **where)


def _mark_powers_of_ten(ax: Axes) -> None:
    """Put ticks at 1, 10, …, and where they would be few also at 2 and 5 times these."""
    low, high = ax.get_xlim()
    multiples = (1, 2, 5) if high < 100 * low else (1,)
    ax.xaxis.set_major_locator(LogLocator(subs=multiples))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.xaxis.set_minor_locator(NullLocator())


def _classes_found(curves: pd.DataFrame) -> str:
    """Which classes no run finds, or else which one is found last; curves: of all the runs."""
    by_class = curves[curves["what"] != ALL].dropna(subset="IoU")
    best = by_class.groupby("what", sort=False)["IoU"].max()
    missed = list(best.index[best < FLOOR])
    if best.empty:
        return "The validation images have no pixel to find"
    if missed:
        number = f"{len(missed)} of {len(best)} classes"
        return f"No finished run finds {number}: {listed(missed)}"
    first = by_class[by_class["IoU"] >= FLOOR].groupby("what")["images"].min()
    last = f"{first.idxmax()} last, within {first.max():,.0f} images"
    return f"Each class is found by some run: {last}"


@styled
def lead_curves(curves: dict[str, list[tuple[int, np.ndarray]]]) -> list[Axes]:
    """Draw DLI's lead over a rival at every epoch.

    Args:
        curves: Title of a split -> of each seed, the seed and the differences in micro IoU
            (epochs,); each split has a panel, and each seed a line.

    Returns:
        The Axes.
    """
    axes = panels(len(curves), 0.9 + 2 * len(curves), sharex=True, sharey=True)
    for ax, (title, leads) in zip(axes, curves.items(), strict=True):
        ax.axhline(0, color="0.6", linewidth=1)
        for k, (seed, lead) in enumerate(leads):
            epochs, colour = np.arange(1, len(lead) + 1), PALETTE[k % len(PALETTE)]
            ax.plot(epochs, lead, color=colour, linewidth=0.5, alpha=0.5)
            smooth = pd.Series(lead).rolling(SMOOTHED, center=True, min_periods=1).mean()
            ax.plot(epochs, smooth, color=colour, label=f"seed {seed}", linewidth=1.5)
        ax.set_title(title, fontsize="medium", weight="normal")
        ax.legend(loc="upper right", ncols=3)
    axes[-1].set_xlabel(f"epoch; thick lines: means of {SMOOTHED} epochs")
    axes[0].figure.supylabel("DLI's micro IoU less the baseline's", fontsize=SMALL)
    state_all(axes[0], _early_and_late(curves))
    return axes


def _early_and_late(curves: dict[str, list[tuple[int, np.ndarray]]]) -> str:
    """DLI's mean lead in the first quarter of the schedule and in the last one, on each split."""
    told = []
    for title, leads in curves.items():
        parts = list(quarters(leads).values())
        told.append(f"{title} {parts[0].mean:+.3f} and {parts[-1].mean:+.3f}")
    return f"Mean lead in the first and last quarter: {', '.join(told)}"


@styled
def few_shot(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw micro IoU of each variant and number of shots: a dot for each seed, a bar at their mean.

    Args:
        frame: Rows of `few_shot.runs`.
        ax: Where to draw; None: on a new figure.
    """
    variants, all_shots = frame["variant"].unique(), sorted(frame["shots"].unique())
    row = HEADER + 0.05 + BAR * len(all_shots)
    ax = axes_or_new(ax, 1.4 + row * len(variants))
    name_rows(ax, variants, row)
    for k, variant in enumerate(variants):
        for j, shots in enumerate(all_shots):
            found = frame[(frame["variant"] == variant) & (frame["shots"] == shots)]
            place = k * row + HEADER + (j + 0.5) * BAR
            _few_shot_bar(ax, found["iou"].dropna(), place, shots, PALETTE[j % len(PALETTE)])
    counts = frame.groupby(["variant", "shots"])["iou"].count()
    data, encoders = frame["run"].iloc[0].data, ", ".join(frame["encoder"].unique())
    ax.set_xlim(0, max(0.1, 1.25 * frame["iou"].max()))
    ax.set_xlabel(
        "micro IoU of the parts that are left, last epoch; shots: annotated images a class\n"
        f"{data}, {encoders}; {seeds(counts.min(), counts.max())}; {INTERPRETATION}"
    )
    state(ax, _best_variants(frame), chars=60)
    return ax


def _few_shot_bar(ax: Axes, values: pd.Series, place: float, shots: int, colour: tuple) -> None:
    """The mean as a bar, each seed as a dot, and both in words at their end."""
    spoken = counted(shots, "shot")
    if len(values):
        ax.barh(place, values.mean(), 0.85 * BAR, color=colour, alpha=0.4)
        ax.scatter(values, np.full(len(values), place), s=16, color=colour)
        text, end = f"{spoken}: {values.mean():.3f}", max(values)
    else:
        text, end = f"{spoken}: pending", 0
    ax.annotate(text, (end, place), (6, 0), textcoords="offset points", va="center", fontsize=SMALL)


def _best_variants(frame: pd.DataFrame) -> str:
    """The variant with the highest mean IoU at each number of shots."""
    means = frame.groupby(["shots", "variant"])["iou"].mean().dropna()
    if means.empty:
        return "No IoU is measured yet"
    told = [
        f"{best[1]} at {counted(shots, 'shot')} ({means[best]:.3f})"
        for shots, best in means.groupby("shots").idxmax().items()
    ]
    n = frame.groupby(["shots", "variant"])["iou"].count().max()
    return f"Highest {_mean_iou(n)}: {'; '.join(told)}"


@styled
def feature_planes(records: dict[str, dict]) -> list[Axes]:
    """Draw normal and defect cells of the validation images on two principal directions.

    Args:
        records: Title -> record of a few-shot run, whose encoder's features they are.

    Returns:
        The Axes, one for each record.
    """
    columns = min(2, len(records))
    rows = -(-len(records) // columns)
    axes = panels(len(records), 1.1 + 2.5 * rows, columns=columns, sharex=True, sharey=True)
    for ax, (title, record) in zip(axes, records.items(), strict=True):
        features = record["features"]
        for name, colour in (("normal", "0.6"), ("defect", PALETTE[3])):
            x, y = np.reshape(features[name], (-1, 2)).T
            ax.scatter(x, y, s=8, color=colour, label=f"{name}, n = {len(x)}")
        ax.set(xticks=[], yticks=[], aspect="equal")
        text = wrapped(f"{title}, AUROC {shown(features['auroc'])}", 30)
        ax.set_title(text, fontsize="medium", weight="normal")
    for ax in axes[-columns:]:
        ax.set_xlabel("first principal direction")
    figure = axes[0].figure
    figure.supylabel("second principal direction of the features", fontsize=SMALL)
    points, labels = axes[0].get_legend_handles_labels()
    figure.legend(points, labels, loc="outside lower left", ncols=2)
    state_all(axes[0], _separation(records))
    return axes


def _separation(records: dict[str, dict]) -> str:
    """How well features tell defects from normal ground."""
    found = {title: record["features"]["auroc"] for title, record in records.items()}
    found = {title: auroc for title, auroc in found.items() if not np.isnan(auroc)}
    if not found:
        return "The features are of defects or of normal ground alone"
    low, high = min(found, key=found.__getitem__), max(found, key=found.__getitem__)
    told = f"{found[low]:.3f}"
    if len(found) > 1:
        told = f"from {found[low]:.3f} ({low}) to {found[high]:.3f} ({high})"
    return f"How features tell defects from normal ground: AUROC {told}"


@styled
def effects(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw each claim's difference under each protocol, beside the paper's (diamond).

    Intervals are those of the claims; one that would press all others together is cut off and
    ends in an arrow. What is not measurable under a protocol says so in that protocol's place, and
    a claim of which nothing is known says why. What else is pending is left out.

    Args:
        frame: Rows of `claims.claims`, of one encoder.
        ax: Where to draw; None: on a new figure.
    """
    known = frame[frame["n"] > 0]
    measured = known[known["state"] != "not measurable"]
    names = list(frame["claim"].unique())
    protocols = list(known["protocol"].unique())
    lines = 1 + max(1, len(protocols))  # the paper has the first
    row = HEADER + 0.1 + LINE * lines
    top_of = {claim: k * row + HEADER + LINE / 2 for k, claim in enumerate(names)}
    ax = axes_or_new(ax, 1.3 + row * len(names) + 0.17 * (1 + len(protocols)))
    name_rows(ax, names, row)
    ax.axvline(0, color="0.6", linewidth=1)
    paper = frame.drop_duplicates("claim").dropna(subset="paper")
    places = paper["claim"].map(top_of)
    ax.plot(paper["paper"], places, "D", color="black", markersize=4, label="paper")
    edge = REACH * frame[["mean", "paper"]].abs().max(axis=None) or np.inf
    for k, protocol in enumerate(protocols):
        found = measured[measured["protocol"] == protocol]
        places = found["claim"].map(top_of) + LINE * (k + 1)
        style = {"color": PALETTE[k % len(PALETTE)], "markersize": 4}
        bars = {"xerr": _error_bars(found), "capsize": 2, "label": protocol}
        ax.errorbar(found["mean"], places, fmt="o", **bars, **style)
        for end, arrow, at in (("low", "<", -edge), ("high", ">", edge)):
            for place in places[found[end] * np.sign(at) > edge]:
                ax.plot(at, place, arrow, clip_on=False, **style)
    cut = bool((measured[["low", "high"]].abs() > edge).any(axis=None))
    if cut:
        ax.set_xlim(-edge, edge)
    unknown = frame[~frame["claim"].isin(known["claim"])].drop_duplicates("claim")
    for row in pd.concat([known.drop(measured.index), unknown]).itertuples():
        line = 1 + protocols.index(row.protocol) if row.n else lines - 1
        style = {"textcoords": "offset points", "fontsize": SMALL, "color": "0.4"}
        where = (0, top_of[row.claim] + LINE * line)
        ax.annotate(row.state, where, (4, 0), va="center", **style)
    encoders = ", ".join(frame["encoder"].unique())
    n = seeds(frame["n"].min(), frame["n"].max())
    longer = " (arrow: longer)" if cut else ""
    ax.set_xlabel(f"difference, 95 % interval where n > 1{longer}; {encoders}, {n}")
    legend_below(ax, columns=1, lines=2)
    state(ax, _above_zero(frame, measured), chars=60)
    return ax


def _above_zero(frame: pd.DataFrame, measured: pd.DataFrame) -> str:
    """For how many measured claims the whole interval is above 0, and where it is below."""
    if measured.empty:
        return "No claim is measured yet"
    if measured["low"].isna().all():
        return (
            f"{counted(measured['claim'].nunique(), 'claim')} measured, none with an interval yet"
        )
    audit = audited(frame)
    told = [
        f"{_intervals(rows.dropna(subset='low'))} under {name}"
        for name, rows in (
            ("the paper's protocol", measured[measured["protocol"] == "paper's protocol"]),
            ("the audit", audit[audit.index.isin(measured.index)]),
        )
    ]
    return f"Whole interval above 0: {', '.join(told)}"


def _intervals(rows: pd.DataFrame) -> str:
    """Of how many claims with an interval it lies above 0, and of how many below."""
    if rows.empty:
        return "none yet"
    above, below = int((rows["low"] > 0).sum()), int((rows["high"] < 0).sum())
    text = f"{above} of {counted(len(rows), 'claim')}"
    return f"{text} ({below} below)" if below else text
