"""The command `dli`: the study from a terminal."""

import os
import re
import sys
import time
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer

from dlilib import background, cluster, precision, study
from dlilib import convert as convert_
from dlilib import report as report_
from dlilib.magnetic import magnetic_tiles
from dlilib.models import WeightsError
from dlilib.run import Run
from dlilib.speed import timings
from dlilib.store import StoreError, machine, write_whole
from dlilib.tiles import from_folder

WAIT = 10  # seconds
INTERRUPTED = 130  # exit code after Ctrl-C
IN_ID = ("data", "encoder", "method", "split", "seed")
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
PresetName = Annotated[str, typer.Option("--preset", help=", ".join(study.PRESETS))]
Budget = Annotated[str, typer.Option(help="time to train, as 90s, 9m or 2h; default no limit")]
Notebooks = Annotated[Path, typer.Option(help="folder of the notebooks")]
Match = Annotated[str, typer.Option(help="only runs with all of these words, as: dli seed0 fraction=0.5")]
Root = Annotated[Path | None, typer.Option(help="folder or zip of the data; default DLILIB_DATA, else a download")]
Results = Annotated[Path, typer.Option(help="folder of all results")]
Pilot = Annotated[bool, typer.Option("--pilot", help="the runs that the preset's schedule was chosen by, instead")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, …; default the first GPU, else the CPU")]


@app.command()
def data(
    name: Annotated[str, typer.Argument(help="magnetic-tiles, toy, folder or mvtec_ad-<category>")], root: Root = None
) -> None:
    """Read a data set with all its checks and print what is in it."""
    if not re.fullmatch("magnetic-tiles|toy|folder|mvtec_ad-.+", name):
        raise typer.BadParameter(f"{name!r} is none of magnetic-tiles, toy, folder and mvtec_ad-<category>")
    if name == "folder" and root is None:
        raise typer.BadParameter("folder needs --root")
    source = Run(data=name.replace("magnetic-tiles", "magnetic_tiles"))
    tiles = from_folder(root) if name == "folder" else study.load_tiles(source, root)
    print(f"{tiles.source}: {len(tiles)} images of {len(tiles.tile.unique())} tiles")
    print("/".join(tiles.counts()), "/".join(str(n) for n in tiles.counts().values()), sep="\n")


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="labelme or coco")],
    root: Annotated[Path, typer.Argument(help="folder or zip of images and annotations")],
    out: Annotated[Path, typer.Argument(help="new folder")],
) -> None:
    """Draw LabelMe's or COCO's polygons into a folder of images and masks, for `dli data folder` and notebook 8."""
    tiles = from_folder(convert_.convert(source, root, out), size=None)
    print(out, tiles.counts())


@app.command()
def run(
    preset: PresetName = "smoke", match: Match = "", budget: Budget = "", device: Device = None, root: Root = None,
    results: Results = Path("results"),
    workers: Annotated[
        int, typer.Option(help="spread the runs over so many processes here, in the background too", min=0)
    ] = 0,
    scheduler: Annotated[str, typer.Option(help="spread them over the workers of a Dask scheduler, tcp://…")] = "",
    in_background: Annotated[
        bool, typer.Option("--background", help="disturb nobody: lowest priority, one thread a run, a run a core")
    ] = False,
    pilot: Pilot = False,
) -> None:
    """Train the preset's pending runs for at most --budget (90s, 9m, 2h); the next call goes on there."""
    runs, folder = _matching(preset, match, pilot), study.results_folder(preset, results)
    if in_background:
        if scheduler or (device or "cpu") != "cpu":
            raise typer.BadParameter("--background trains on this machine's CPU: no --scheduler, no other --device")
        _seconds(budget)  # an error in it is told here, not by each process
        options = {"preset": preset, "match": match, "budget": budget, "results": results, "root": root}
        given = [word for name, value in options.items() if value for word in (f"--{name}", str(value))]
        given += ["--pilot"] if pilot else []
        left = background.execute(runs, folder, given, workers)
    elif scheduler or workers:
        left = cluster.execute(runs, folder, root, device, _seconds(budget), scheduler, workers)
    else:
        left = study.execute(runs, folder, root, device, _seconds(budget))
    print(f"{len(runs) - left} of {len(runs)} runs finished, {left} pending")


@app.command()
def status(
    preset: PresetName = "smoke", match: Match = "", device: Device = None, results: Results = Path("results"),
    pilot: Pilot = False,
) -> None:
    """List the preset's runs, finished and pending, and the time that the pending ones will take."""
    runs = _matching(preset, match, pilot)
    folder = study.results_folder(preset, results)
    here = torch.device(study.device_named(device))
    device_name = machine(here)["device"]
    known = {p: study.records(study.results_folder(p, results) / "records") for p in study.PRESETS}
    frame, timed = known[preset].set_index("id"), pd.concat(known.values())
    left = study.pending(runs, folder)
    costs = {r: study.estimate_seconds(r, timed, device_name, precision.resolve(r.precision, here)) for r in left}
    for r in runs:
        if r not in costs:
            best, last, minutes = frame.iou_best[r.id], frame.iou_last[r.id], frame.seconds[r.id] / 60
            text = f"IoU {best:.3f}, last {last:.3f}, {minutes:.1f} min"
        else:
            text = f"pending, about {_in_words(costs[r][0])}" if costs[r] else "pending"
        changed = r.changed.items() - study.PRESETS[preset].base.changed.items()
        print(f"{r.id:62} {text:28} {' '.join(f'{k}={v}' for k, v in sorted(changed) if k not in IN_ID)}".rstrip())
    print(f"{preset}: {len(runs) - len(costs)} of {len(runs)} runs finished, {len(costs)} pending")
    for basis in dict.fromkeys(cost[1] for cost in costs.values() if cost):
        seconds = [cost[0] for cost in costs.values() if cost and cost[1] == basis]
        print(f"  {len(seconds)} of them: about {_in_words(sum(seconds))}, one after the other, by {basis}")
    if unknown := sum(cost is None for cost in costs.values()):
        print(f"  {unknown} of them: duration unknown, no run that is finished tells")


@app.command()
def speed(
    device: Device = None, root: Root = None, results: Results = Path("results"),
    released_src: Annotated[str, typer.Option(help="folder src of the authors' code, to time it too")] = "",
) -> None:
    """Time injection, blending and training beside their peers, on the Magnetic Tiles; tables to results/tables."""
    device = study.device_named(device)
    tiles = magnetic_tiles(root)
    kind = machine(torch.device(device))["device"]
    for name, frame in timings(tiles, device, released_src, root):
        path = results / "tables" / f"speed_{name}_{device.split(':')[0]}.csv"
        text = frame.assign(device=kind, torch=torch.__version__).to_csv(index=False, float_format="%.4g")
        write_whole(path, text.encode())
        print(f"\n{name}, {kind}: {path}", frame.to_string(index=False, float_format="%.4g"), sep="\n")


@app.command()
def report(results: Results = Path("results"), notebooks: Notebooks = Path("notebooks")) -> None:
    """Write results/README.md from the records: the paper beside ours, and what survives."""
    path = results / "README.md"
    write_whole(path, report_.report(results, _paper(notebooks)).encode())
    print(path)


@app.command()
def site(
    preset: PresetName = "lite", results: Results = Path("results"), notebooks: Notebooks = Path("notebooks")
) -> None:
    """Write results/<preset>/site, to be read in a browser: the executed notebooks, and the verdicts in front."""
    _site(preset, results, _paper(notebooks))


@app.command(name="study")
def study_(
    preset: PresetName = "smoke", only: Annotated[str, typer.Option(help="notebooks whose name has this")] = "",
    compute: Annotated[bool, typer.Option(help="train what is pending first")] = True, device: Device = None,
    root: Root = None, results: Results = Path("results"), notebooks: Notebooks = Path("notebooks"),
    jobs: Annotated[int, typer.Option(help="notebooks at once", min=1)] = 1,
    failed: Annotated[bool, typer.Option("--failed", help="only notebooks that failed, or have no output yet")] = False,
) -> None:
    """Train the preset's runs, execute the notebooks on them into results/<preset>/notebooks, and build the site."""
    from dlilib import notebooks as batch  # training alone needs neither papermill nor Jupyter

    paths = sorted(p for p in notebooks.glob("[0-9]*.ipynb") if only in p.name)
    if not paths:
        raise typer.BadParameter(f"no notebook in {notebooks.resolve()} has {only!r} in its name")
    folder, paper = study.results_folder(preset, results), _paper(notebooks)
    if compute:
        while left := study.execute(study.all_runs(preset), folder, root, device):
            print(f"{left} runs are another process's just now: waiting for them", file=sys.stderr)
            time.sleep(WAIT)
    if root:
        os.environ["DLILIB_DATA"] = str(root.resolve())
    values = {"preset": preset, "results": os.path.relpath(results, notebooks), "compute": compute}
    paths = batch.to_redo(paths, folder / "notebooks") if failed else paths
    errors = batch.execute(paths, folder / "notebooks", values, jobs)
    print(f"\nRecords, tables, figures and the executed notebooks are in {folder}/")
    if errors:
        told = "\n".join(f"  {name}: {error}" for name, error in errors.items())
        raise ValueError(
            f"{len(errors)} of {len(paths)} notebooks failed; what there is of them is in {folder}/notebooks, in "
            f"*.failed.ipynb, and --failed redoes them:\n{told}"
        )
    _site(preset, results, paper)


def _site(preset: str, results: Path, paper: pd.DataFrame) -> None:
    from dlilib.site import build  # training alone needs no nbconvert

    print(f"open {build(preset, results, paper)} in a browser")


def _paper(notebooks: Path) -> pd.DataFrame:
    path = notebooks / "paper.csv"
    if not path.is_file():
        raise typer.BadParameter(f"{path} is not there: name the folder of the notebooks by --notebooks")
    return pd.read_csv(path)


def _matching(preset: str, match: str, pilot: bool) -> list[Run]:
    runs = study.experiment("pilot", preset) if pilot else study.all_runs(preset)
    if pilot and not runs:
        raise typer.BadParameter(f"{preset} has no pilot")
    if not (found := study.matching(runs, match)):
        raise typer.BadParameter(f"no run of {preset} matches {match!r}")
    return found


def _seconds(budget: str) -> float | None:
    if not budget:
        return None
    if not (match := re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", budget)):
        raise typer.BadParameter(f"budget is a number and s, m or h, as 90s, 9m, 2h; got {budget!r}")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def _in_words(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} hours"


def main() -> None:
    """Run the command; errors that the user can mend are one line, not a traceback."""
    try:
        app()
    except SystemExit as end:
        if end.code == INTERRUPTED:
            print("dli: what is finished is kept; the same command goes on there (study: --failed)", file=sys.stderr)
        raise
    except (ValueError, WeightsError, StoreError) as error:
        sys.exit(f"dli: {error}")
    except OSError as error:
        if error.filename is None:
            raise
        sys.exit(f"dli: {error.filename}: {error.strerror}. What is finished is kept; mend that and start again")
