"""The study's grid: presets, the runs of each experiment, and a sweep that fits into whatever time there is."""

import itertools
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from dlilib.files import DataError
from dlilib.losses import METHODS, VARIED
from dlilib.magnetic import magnetic_tiles
from dlilib.metrics import iou
from dlilib.mvtec import mvtec_ad
from dlilib.presets import FEW_SHOT, LIGHT_ENCODERS, PRESETS, Preset
from dlilib.run import Run
from dlilib.store import Store, read_record
from dlilib.tiles import TileSet
from dlilib.toy import toy_tiles
from dlilib.train import fit

SAME_DATA = ("data", "size", "threshold", "resize")  # runs alike in these are of one data set
WORK = ("epochs", "size", "fraction", "free_share")  # what a run's time grows with
ENDS = ("dli", "baseline")  # the two methods that single audits compare


def preset_named(name: str) -> Preset:
    """The preset, or a ValueError that lists them."""
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {tuple(PRESETS)}, got {name!r}")
    return PRESETS[name]


def results_folder(preset: str, results: str | Path = "results") -> Path:
    """Where a preset keeps its records, checkpoints, tables, figures and executed notebooks."""
    return Path(results) / preset_named(preset).folder


def experiment(
    name: str, preset: str, encoders: Sequence[str] = (), seeds: Sequence[int] = (), fractions: Sequence[float] = (),
    split: str = "image", shots: Sequence[int] = (), ways: Sequence[str] = (), data: str = "",
) -> list[Run]:
    """The runs of one experiment at a preset; no encoders, seeds, fractions, shots or ways: the preset's.

    name: "comparison", every method (Table 1, Figure 3); "ablation", DLI by cut-paste, Poisson and both (Table 2);
        "weakly_supervised", DLI and WCE on fractions of the training data, on one encoder (Figure 5); "half_data", the
        same at half the data; "choices", DLI with each of its open choices made the other way; "audits", these and one
        thing changed at a time: competitors as published, free images in validation, the masks' threshold; "mended",
        every method with competitors as published and free images in validation; "few_shot", the `ways` of `FEW_SHOT`
        with so many annotated images a class, always split by tile; "pilot", the runs by which the preset's schedule
        was chosen, each as it is, whatever else is asked for.
    data: instead of the preset's, as "mvtec_ad-bottle".
    """
    p = preset_named(preset)
    if name == "pilot":
        return list(p.pilot)
    split = "tile" if name == "few_shot" else split
    fractions = [0.5] if name == "half_data" else sorted(fractions or p.fractions, reverse=True)
    published = {method: {"losses": "published"} if method in VARIED else {} for method in METHODS}
    choices = [{"until": "uniform"}, {"region": "mask"}, {"guidance": "donor"}, {"label": "tight"}]
    less_data = [{"fraction": f, "method": m} for f in fractions for m in ("dli", "wce")]
    cases = {
        "comparison": [{"method": method} for method in METHODS],
        "ablation": [{"p_poisson": share} for share in (0.0, 1.0, 0.5)],
        "weakly_supervised": less_data,
        "half_data": less_data,
        "choices": choices,
        "audits": [
            *({"method": m, **published[m]} for m in VARIED),
            *({"method": m, **change} for change in ({"free_in_val": True}, {"threshold": 127}) for m in ENDS),
            *choices,
        ],
        "mended": [{"method": m, "free_in_val": True, **published[m]} for m in METHODS],
        "few_shot": [
            {**dict(p.few_shot), "shots": k, **c} for k in shots or p.shots
            for c in (FEW_SHOT[way] for way in ways or p.few_shot_ways)
        ],
    }
    if min(shots, default=1) < 1:
        raise ValueError(f"shots must be 1 or more, got {list(shots)}")
    if name not in cases:
        raise ValueError(f"experiment must be one of {(*cases, 'pilot')}, got {name!r}")
    one_encoder = (p.fraction_encoder,)
    own = {"weakly_supervised": one_encoder, "half_data": one_encoder, "few_shot": p.few_shot_encoders}
    own_seeds = p.few_shot_seeds if name == "few_shot" else p.seeds
    grid = itertools.product(seeds or own_seeds, encoders or own.get(name, p.encoders), cases[name])
    base = replace(p.base, split=split, data=data or p.base.data)
    return [replace(base, seed=seed, encoder=encoder, **case) for seed, encoder, case in grid]


def all_runs(preset: str, match: str = "") -> list[Run]:
    """Every run of the study, once, so ordered that what is finished at any moment is the most useful part.

    The cheapest encoder first; for each the preset's stages; for each stage a whole seed, on both splits, before the
    next one. The pilot's runs, which chose the preset, are not among them.
    match: as in `matching`, for example "dli fraction=0.5".
    """
    runs = [run for stage in preset_named(preset).stages for run in _stage(preset, stage)]
    cheapest_first = (*LIGHT_ENCODERS, "resnet34")
    runs = sorted(dict.fromkeys(runs), key=lambda run: cheapest_first.index(run.encoder))
    return matching(runs, match)


def matching(runs: Iterable[Run], match: str) -> list[Run]:
    """Those of `runs` that have every one of the words of `match` in their id or among their fields."""
    text = {run: " ".join([run.id, *(f"{k}={v}" for k, v in asdict(run).items())]) for run in runs}
    return [run for run in text if all(word in text[run] for word in match.split())]


def _stage(preset: str, stage: Sequence[tuple[str, str]]) -> list[Run]:
    """The runs of a stage's experiments, a whole seed before the next."""
    runs = [run for name, split in stage for run in experiment(name, preset, split=split)]
    return sorted(runs, key=lambda run: run.seed)


def load_tiles(run: Run, root: str | Path | None = None) -> TileSet:
    """The data a run asks for; root: of the real data, as in `magnetic_tiles` or, by need, `mvtec_ad`."""
    if run.data == "toy":
        return toy_tiles(size=run.size)
    if run.data == "magnetic_tiles":
        return magnetic_tiles(root, run.size, run.threshold, run.resize)
    if run.data.startswith("mvtec_ad-"):
        if root is None:
            raise DataError(f"{run.data} needs a root: the folder or zip of your copy")
        return mvtec_ad(root, run.data.removeprefix("mvtec_ad-"), run.size, run.resize)
    raise DataError(f"the study knows the data toy, magnetic_tiles and mvtec_ad-<category>, not {run.data!r}")


def pending(runs: Iterable[Run], folder: str | Path) -> list[Run]:
    """The runs without a record in `folder`; ValueError naming a record that is none."""
    store = Store(folder)
    return [run for run in runs if store.record(run) is None]


def execute(
    runs: Sequence[Run], folder: str | Path, root: str | Path | None = None, device: str | None = None,
    budget: float | None = None, progress: bool = True,
) -> int:
    """Finish what is pending of `runs`, in order, and return how many are still pending.

    Several processes may work on one folder at once: each leaves alone what another is training.
    budget: seconds; the sweep stops cleanly before an epoch that would pass it and goes on there the next time.
    device: default the first GPU, else the CPU. progress: a bar over runs with the epochs of the current one.
    """
    deadline = None if budget is None else time.monotonic() + budget
    device = device_named(device)
    todo, store = pending(runs, folder), Store(folder)
    data: dict[tuple, TileSet] = {}
    with tqdm(total=len(todo), desc="runs", unit="run", disable=not progress or not todo) as bar:
        for run in todo:
            key = tuple(getattr(run, name) for name in SAME_DATA)
            name = f"{run.method} {run.encoder} seed {run.seed}"

            def show(epoch: int, last: float, name: str = name, epochs: int = run.epochs) -> None:
                bar.set_postfix_str(f"{name}: epoch {epoch}/{epochs}, IoU {last:.3f}")

            with store.claim(run) as mine:
                if mine and key not in data:
                    data[key] = load_tiles(run, root)
                if mine and fit(run, data[key], device, folder, deadline, show) is None:
                    break
            bar.update()
    return len(pending(runs, folder))


def device_named(device: str | None) -> str:
    """The device, or where None the first GPU, else the CPU; ValueError for one that is not there."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|(cuda|mps|xpu)(:\d+)?", device):
        raise ValueError(f"device must be as cpu, cuda or cuda:1, got {device!r}")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {device}: torch sees no CUDA device")
    return device


def estimate_seconds(
    run: Run, frame: pd.DataFrame, device: str, precision: str
) -> tuple[float, str] | None:
    """What the run will take by the finished runs in `frame`, and by which; None where nothing in it tells.

    device: as records name it, as "CPU x86_64 AVX2, 2 threads"; precision: what the run will be computed in there, as
    `precision.resolve` gives it. Time is taken to grow with epochs, pixels and training images, so only runs on the
    same data tell. Runs of the same encoder are preferred to others, this number of threads to another one. Without a
    run of this kind of device in this precision the time is that of another device, which is named: no promise about
    this one.
    """
    frame = frame[frame["data"] == run.data]
    kinds = frame["device"].map(_kind)
    same = (kinds == _kind(device)) & (frame["precision_used"] == precision)
    bases = (
        (same & (frame["device"] == device), ""),
        (same, ""),
        (kinds != _kind(device), "; none is finished on this kind of machine"),
    )
    for rows, warning in bases:
        alike = rows & (frame["encoder"] == run.encoder)
        found = frame[alike if alike.any() else rows]
        if len(found):
            name = found["device"].mode()[0]
            found = found[found["device"] == name]  # one device's runs, not a mixture
            rates = found["seconds"] / _work(*(found[field] for field in WORK))
            what = "runs like it" if alike.any() else "other encoders' runs"
            basis = f"{what} on {name}, {found['precision_used'].mode()[0]}{warning}"
            return float(rates.mean() * _work(*(getattr(run, field) for field in WORK))), basis
    return None


def _kind(device: str) -> str:
    """A device without its number of threads."""
    return device.partition(",")[0]


def _work(epochs: int, size: int, fraction: float, free_share: float) -> float:
    return epochs * size**2 * fraction * (1 + 3 * free_share)  # three of four images are free


def records(folder: str | Path) -> pd.DataFrame:
    """One row a finished run: the fields of its Run, `iou_best`, `iou_last`, `epoch_best`, `seconds`, `device`,
    `precision_used` and `path`.

    folder: that of the records, or the one above it. `iou_best` is the paper's figure, at the epoch with the best
    validation IoU; `iou_<class>` is per class at that epoch. Raises ValueError naming a file that is not a record, or
    that is of other data than another one of that name.
    """
    folder = Path(folder, "records") if Path(folder, "records").is_dir() else Path(folder)
    rows = [_row(path) for path in sorted(folder.glob("*.json"))]
    data: dict[tuple, dict[str, Any]] = {}
    for row in rows:
        first = data.setdefault(tuple(row[name] for name in SAME_DATA), row)
        if row["digest"] != first["digest"]:
            raise ValueError(f"{row['path']}: of other data than {first['path']}, though of one name; keep them apart")
    columns = [*asdict(Run()), "id", "iou_best", "iou_last", "epoch_best", "digest", "seconds", "device"]
    columns += ["precision_used", "path"]
    return pd.DataFrame(rows, columns=None if rows else columns)


def _row(path: Path) -> dict[str, Any]:
    record = read_record(path)
    best, classes = record["best"], record["data"]["classes"]
    try:
        for moment in (best, record["last"]):
            if f"{iou(*map(sum, zip(*moment['classes'], strict=True))):.6f}" != f"{moment['iou']:.6f}":
                raise ValueError(f"its IoU {moment['iou']} is not that of its counts")
        if not (1 <= best["epoch"] <= Run(**record["run"]).epochs and record["seconds"] >= 0):
            raise ValueError(f"epoch {best['epoch']}, {record['seconds']} seconds")
        device = record["machine"]["device"]
        used = record["machine"].get("precision", record["run"].get("precision", "fp32"))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: a record that was changed ({error}); delete it to run it again") from None
    return {
        **asdict(Run(**record["run"])), "id": record["id"],
        "iou_best": best["iou"], "iou_last": record["last"]["iou"], "epoch_best": best["epoch"],
        **{f"iou_{name}": iou(*counts) for name, counts in zip(classes, best["classes"], strict=True)},
        "digest": record["data"].get("digest"), "seconds": record["seconds"], "device": device,
        "precision_used": used, "path": path.as_posix(),
    }


def select(frame: pd.DataFrame, runs: Iterable[Run]) -> pd.DataFrame:
    """The rows of `runs`, in their order."""
    wanted = {run.id: k for k, run in enumerate(runs)}
    found = frame[frame["id"].isin(list(wanted))]
    return found.sort_values("id", key=lambda ids: ids.map(wanted)).reset_index(drop=True)
