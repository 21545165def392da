"""The command `dli`: the study from a terminal."""

import os
import re
import sys
import time
import warnings
from pathlib import Path
from typing import Annotated

import torch
import typer

from dlilib.data import convert as convert_
from dlilib.data import datasets
from dlilib.data.files import WriteError, write_whole
from dlilib.data.folder import from_folder
from dlilib.data.magnetic import magnetic_tiles
from dlilib.extras import MissingExtraError, how_to_install
from dlilib.metrics import shown
from dlilib.models import WeightsError
from dlilib.study import background, experiments, sweep
from dlilib.study.estimate import estimate_seconds
from dlilib.study.presets import PRESETS
from dlilib.training import precision
from dlilib.training.run import Run
from dlilib.training.store import machine
from dlilib.wording import duration, listed

WAIT = 10  # seconds, before runs that another process holds are asked for again
INTERRUPTED = 130  # exit code after Ctrl-C
IN_ID = ("data", "encoder", "method", "split", "seed")
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}  # seconds

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
)
PresetName = Annotated[str, typer.Option("--preset", help=", ".join(PRESETS))]
Budget = Annotated[str, typer.Option(help="time to train, as 90s, 9m or 2h; default no limit")]
Match = Annotated[
    str, typer.Option(help="only runs with all of these words, as: dli seed0 fraction=0.5")
]
Root = Annotated[
    Path | None,
    typer.Option(
        help="folder or zip of the data; the Magnetic Tiles' default DLILIB_DATA, else a download"
    ),
]
Results = Annotated[Path, typer.Option(help="folder of all results")]
Pilot = Annotated[
    bool,
    typer.Option("--pilot", help="the runs that the preset's schedule was chosen by, instead"),
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, …; default the first GPU, else the CPU")
]
Tile = Annotated[
    tuple[int, int] | None,
    typer.Option(metavar="SIZE OVERLAP", help="cut large images into patches, pixels"),
]
RESULTS = Path("results")


@app.command()
def data(
    name: Annotated[str, typer.Argument(help=f"folder, {', '.join(datasets.NAMES)}")],
    root: Root = None,
    size: Annotated[int, typer.Option(help="side of the images, pixels", min=8)] = 256,
    masks: Annotated[
        str, typer.Option(help="a folder's masks resized by nearest pixel, or any: keep thin ones")
    ] = "nearest",
    mask_suffix: Annotated[
        str, typer.Option(help="what a mask's name adds to its image's in a folder, as _GT")
    ] = "",
    tile: Tile = None,
    value_range: Annotated[
        tuple[int, int] | None,
        typer.Option("--range", metavar="LOW HIGH", help="what 0 and 255 are of 16-bit images"),
    ] = None,
) -> None:
    """Read a data set with all its checks and print what is in it."""
    if name == "folder":
        if root is None:
            raise typer.BadParameter("folder needs --root")
        options = {"masks": masks, "mask_suffix": mask_suffix}
        tiles = from_folder(root, size, tile=tile, value_range=value_range, **options)
    elif (masks, mask_suffix, tile, value_range) != ("nearest", "", None, None):
        raise typer.BadParameter("--masks, --mask-suffix, --tile and --range are of a folder")
    else:
        tiles = datasets.load(name.replace("magnetic-tiles", "magnetic_tiles"), root, size)
    print(f"{tiles.source}: {len(tiles)} images of {len(tiles.groups.unique())} parts")
    counts = tiles.counts()
    print("/".join(counts), "/".join(str(n) for n in counts.values()), sep="\n")


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help=", ".join(convert_.SOURCES))],
    root: Annotated[Path, typer.Argument(help="folder or zip of images and annotations")],
    out: Annotated[Path, typer.Argument(help="new folder")],
    classes: Annotated[
        Path | None, typer.Option(help="file of the classes 1..K in their order, a line each")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="refuse what cannot be read, leave nothing out")
    ] = False,
    width: Annotated[
        int, typer.Option(help="of LabelMe's lines and points, pixels", min=1)
    ] = convert_.WIDTH,
    unlisted: Annotated[
        str, typer.Option(help='photographs that no file lists: "leave out", or "free" of defects')
    ] = "leave out",
    tile: Tile = None,
) -> None:
    """Draw annotated regions into a folder of images and masks, as notebook 8 reads it."""
    convert_.convert(
        source,
        root,
        out,
        classes=classes,
        strict=strict,
        width=width,
        unlisted=unlisted,
        tile=tile,
    )


@app.command()
def run(
    preset: PresetName = "smoke",
    match: Match = "",
    budget: Budget = "",
    device: Device = None,
    root: Root = None,
    results: Results = RESULTS,
    workers: Annotated[
        int,
        typer.Option(help="spread the runs over so many processes here", min=0),
    ] = 0,
    scheduler: Annotated[
        str, typer.Option(help="spread them over the workers of a Dask scheduler, tcp://…")
    ] = "",
    in_background: Annotated[
        bool,
        typer.Option(
            "--background", help="disturb nobody: lowest priority, one thread a run, a run a core"
        ),
    ] = False,
    pilot: Pilot = False,
    end_with_input: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Train the preset's pending runs for at most --budget; the next call continues there."""
    if end_with_input:
        background.end_with_input()
    runs, folder = _matching(preset, match, pilot), experiments.results_folder(preset, results)
    seconds = _seconds(budget)
    if in_background:
        if scheduler or (device or "cpu") != "cpu":
            raise typer.BadParameter(
                "--background trains on this machine's CPU: no --scheduler, no other --device"
            )
        options = {
            "preset": preset,
            "match": match,
            "budget": budget,
            "results": results,
            "root": root,
        }
        words = [word for k, v in options.items() if v for word in (f"--{k}", str(v))]
        words += ["--pilot"] if pilot else []
        left = background.execute_in_background(runs, folder, words, processes=workers)
    elif scheduler or workers:
        from dlilib.study import cluster  # training here needs no Dask

        left = cluster.execute_on_workers(
            runs, folder, root, device=device, budget=seconds, scheduler=scheduler, workers=workers
        )
    else:
        left = sweep.execute(runs, folder, root, device=device, budget=seconds)
    print(f"{len(runs) - left} of {len(runs)} runs finished, {left} pending")


@app.command()
def status(
    preset: PresetName = "smoke",
    match: Match = "",
    device: Device = None,
    results: Results = RESULTS,
    pilot: Pilot = False,
) -> None:
    """List the preset's runs, finished and pending, and how long the pending ones will take."""
    import pandas as pd  # training needs no tables

    from dlilib.analysis.records import records

    runs, folder = _matching(preset, match, pilot), experiments.results_folder(preset, results)
    here = torch.device(sweep.device_named(device))
    name = machine(here)["device"]
    left = sweep.pending(runs, folder)  # before the records are read: a sweep may write one
    known = {p: records(experiments.results_folder(p, results) / "records") for p in PRESETS}
    timed, finished = pd.concat(known.values()), known[preset].set_index("id")
    costs = {
        run: estimate_seconds(run, timed, name, precision.resolve(run.precision, here))
        for run in left
    }
    for run in runs:
        if run in costs:
            text = f"pending, about {duration(costs[run][0])}" if costs[run] else "pending"
        else:
            row = finished.loc[run.id]
            minutes = row["seconds"] / 60
            best, last = shown(row["iou_best"]), shown(row["iou_last"])
            text = f"IoU {best}, last {last}, {minutes:.1f} min"
        print(f"{run.id:62} {text:28} {_changed(run, PRESETS[preset].base)}".rstrip())
    print(f"{preset}: {len(runs) - len(costs)} of {len(runs)} runs finished, {len(costs)} pending")
    estimates = [cost for cost in costs.values() if cost]
    for basis in dict.fromkeys(basis for _, basis in estimates):
        seconds = [seconds for seconds, by in estimates if by == basis]
        total = duration(sum(seconds))
        print(f"  {len(seconds)} of them: about {total}, one after the other, by {basis}")
    if unknown := len(costs) - len(estimates):
        print(f"  {unknown} of them: duration unknown: no finished run is like them")


@app.command()
def speed(
    device: Device = None,
    root: Root = None,
    results: Results = RESULTS,
    released_src: Annotated[
        str, typer.Option(help="folder src of the authors' code, to time it too")
    ] = "",
    only: Annotated[
        list[str] | None,
        typer.Option(help="only this table, as: injection; may be repeated"),
    ] = None,
) -> None:
    """Time injection, blending and training beside their baselines; tables to results/tables."""
    from dlilib.benchmark import speed as speed_  # training needs no benchmark

    device = sweep.device_named(device)
    measurements = speed_.measurements(device, released_src, root=root)
    if unknown := set(only or ()) - set(measurements):
        told = f"{listed(sorted(unknown))}; there are {listed(measurements)}"
        raise typer.BadParameter(f"no table {told}", param_hint="--only")
    tiles = magnetic_tiles(root)
    kind = machine(torch.device(device))["device"]
    tables = {}
    for name in dict.fromkeys(only or measurements):
        tables[name] = frame = measurements[name](tiles)
        path = results / "tables" / f"speed_{name}_{device.split(':')[0]}.csv"
        text = frame.to_string(index=False, float_format="%.4g")
        print(f"\n{name}, {kind}: {path}", text, sep="\n")
        stored = speed_.beside_others(path, frame.assign(device=kind, torch=torch.__version__))
        write_whole(path, stored.to_csv(index=False, float_format="%.4g").encode())
    print("\nthe documented ratios", speed_.verdicts(tables).to_string(index=False), sep="\n")


@app.command()
def report(results: Results = RESULTS) -> None:
    """Write results/README.md and the project's result table from the records."""
    from dlilib.analysis import report as report_

    pages = {results / "README.md": report_.report(results)}
    front = results.absolute().parent / "README.md"
    if front.is_file() and results.absolute().name == RESULTS.name:  # not from others' results
        pages[front] = report_.renewed(front.read_text(encoding="utf-8"), results)
    for path, text in pages.items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_whole(path, text.encode())
            print(path)


@app.command()
def study(
    preset: PresetName = "smoke",
    only: Annotated[str, typer.Option(help="notebooks whose name has this")] = "",
    compute: Annotated[bool, typer.Option(help="train what is pending first")] = True,
    device: Device = None,
    root: Root = None,
    results: Results = RESULTS,
    notebooks: Annotated[Path, typer.Option(help="folder of the notebooks")] = Path("notebooks"),
    jobs: Annotated[int, typer.Option(help="notebooks at once", min=1)] = 1,
    failed: Annotated[
        bool, typer.Option("--failed", help="only notebooks that failed, or have no output yet")
    ] = False,
) -> None:
    """Train the preset's runs and execute the notebooks on them."""
    from dlilib.study import notebooks as batch  # training needs neither papermill nor Jupyter

    paths = sorted(path for path in notebooks.glob("[0-9]*.ipynb") if only in path.name)
    if not paths:
        raise typer.BadParameter(f"no notebook in {notebooks.resolve()} has {only!r} in its name")
    folder = experiments.results_folder(preset, results)
    if compute:
        _train_all(preset, folder, root, device)
    if root:
        os.environ["DLILIB_DATA"] = str(root)
    for name in ("DLILIB_DATA", "DLILIB_WEIGHTS"):  # notebooks run in a folder of their own
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).resolve())
    values = {"preset": preset, "results": os.path.relpath(results, notebooks), "compute": compute}
    paths = batch.to_redo(paths, folder / "notebooks") if failed else paths
    errors = batch.execute_notebooks(paths, folder / "notebooks", values, jobs=jobs)
    print(f"\nRecords, tables, figures and the executed notebooks are in {folder}/")
    print(f"python docs/build.py --preset {preset} --results {results} builds pages of them")
    if errors:
        redo = "--failed" if compute else "--no-compute --failed"
        told = "\n".join(f"  {name}: {error}" for name, error in errors.items())
        raise ValueError(
            f"{len(errors)} of {len(paths)} notebooks failed; what there is of them is in "
            f"{folder}/notebooks, in *.failed.ipynb, and {redo} redoes them:\n{told}"
        )


def _train_all(preset: str, folder: Path, root: Path | None, device: str | None) -> None:
    while left := sweep.execute(experiments.all_runs(preset), folder, root, device=device):
        print(f"{left} runs are another process's just now: waiting for them", file=sys.stderr)
        time.sleep(WAIT)


def _matching(preset: str, match: str, pilot: bool) -> list[Run]:
    runs = experiments.pilot(preset) if pilot else experiments.all_runs(preset)
    if pilot and not runs:
        raise typer.BadParameter(f"{preset} has no pilot")
    found = experiments.matching(runs, match)
    if not found:
        raise typer.BadParameter(f"no run of {preset} matches {match!r}")
    return found


def _changed(run: Run, base: Run) -> str:
    """The run's fields that neither its id nor the preset's base tells."""
    changed = dict(run.changed.items() - base.changed.items())
    return " ".join(f"{k}={changed[k]}" for k in sorted(changed) if k not in IN_ID)


def _seconds(budget: str) -> float | None:
    if not budget:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", budget)
    if not found:
        raise typer.BadParameter(
            f"budget is a number and s, m or h, as 90s, 9m, 2h; got {budget!r}"
        )
    return float(found[1]) * UNITS[found[2]]


def _show_warning(message: Warning | str, *where: object, **more: object) -> None:
    """Show a warning as the command's own words, without the place in the code."""
    print(f"dli: {message}", file=sys.stderr)


def main() -> None:
    """Run the command; errors that the user can correct are one line, not a traceback."""
    warnings.showwarning = _show_warning
    try:
        app()
    except SystemExit as end:
        if end.code == INTERRUPTED and {"run", "study"}.intersection(sys.argv):
            print(
                "dli: what is finished is kept; the same command goes on there (study: --failed)",
                file=sys.stderr,
            )
        raise
    except (ValueError, WeightsError, WriteError, MissingExtraError) as error:
        sys.exit(f"dli: {error}")
    except ModuleNotFoundError as error:
        sys.exit(f"dli: {how_to_install(error.name or str(error), 'study')}")
    except OSError as error:
        if error.filename is None:
            raise
        sys.exit(
            f"dli: {error.filename}: {error.strerror}. What is finished is kept; correct that and "
            "start again"
        )
