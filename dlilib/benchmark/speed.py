"""How long injection, blending and training take, beside their baselines.

All steps of a comparison run in turn in one process. Times are medians with quartiles, and so are
the ratios to the first step.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch

from dlilib.benchmark import peers
from dlilib.benchmark.blending import blending, regions, scaling
from dlilib.benchmark.injection import classes, injection, loading, remainder
from dlilib.benchmark.timing import RATIOS
from dlilib.benchmark.training import precisions, roofline, training
from dlilib.blend import poisson_blend
from dlilib.models import LIGHT_ENCODERS
from dlilib.tiles import TileSet
from dlilib.training.precision import has_bf16_units
from dlilib.training.run import Run


def measurements(
    device: str = "cpu", released_src: str = "", *, root: str | Path | None = None
) -> dict[str, Callable[[TileSet], pd.DataFrame]]:
    """Return what there is to measure on a device, at the paper's size.

    Args:
        device: "cpu", "cuda" or one of several GPUs.
        released_src: As in `injection`.
        root: As in `injection`.

    Returns:
        By the name of its table, a function of the data set. "precisions" is only there where the
        device has units for bfloat16, "remainder" and "loading" only on a CPU.

    Raises:
        ValueError: The authors' code is asked for and cannot be used.
    """
    if released_src:
        peers.check_released(released_src, root)
    on_gpu = torch.device(device).type == "cuda"
    run = Run(precision="auto", batch=64 if on_gpu else 8)

    def injections(tiles: TileSet) -> pd.DataFrame:
        how = {"device": device, "released_src": released_src, "root": root}
        return pd.concat(injection(tiles, p_poisson, **how) for p_poisson in (0.0, 0.5, 1.0))

    def trainings(tiles: TileSet) -> pd.DataFrame:
        runs = [replace(run, encoder=encoder) for encoder in LIGHT_ENCODERS]
        return pd.concat(training(r, tiles, device, compiled=r == run) for r in runs)

    found: dict[str, Callable[[TileSet], pd.DataFrame]] = {
        "blending": lambda _: blending(device=device),
        "regions": lambda tiles: regions(tiles, device=device),
        "scaling": lambda _: scaling(device=device),
        "injection": injections,
        "classes": lambda tiles: classes(tiles, device=device),
    }
    if not on_gpu:
        found |= {"remainder": remainder, "loading": loading}
    if has_bf16_units(torch.device(device)):
        found["precisions"] = lambda tiles: precisions(run, tiles, device)
    found |= {"training": trainings, "roofline": lambda tiles: roofline(run, tiles, device)}
    return found


def beside_others(path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """Return what a table becomes with the rows of one kind of machine measured anew.

    Args:
        path: A CSV file of earlier rows, if there is one.
        frame: All rows of a kind of machine, which is named in their column "device": instruction
            set and threads, or the GPU.

    Returns:
        The earlier rows of other kinds, then these.

    Raises:
        ValueError: The file is no such table.
    """
    if not path.is_file():
        return frame
    try:
        earlier = pd.read_csv(path)
        others = earlier[~earlier["device"].isin(frame["device"])]
    except (ValueError, KeyError):
        raise ValueError(f"{path}: not a table of `dli speed`: move it away") from None
    return pd.concat([others, frame], ignore_index=True)


@dataclass(frozen=True)
class Claim:
    """What the documentation says of a ratio."""

    text: str
    table: str  # a key of `measurements`
    row: dict[str, object]  # column -> value of the row whose ratio it is
    least: float


CLAIMS = (
    Claim(
        "cut-paste, beside the authors' code",
        "injection",
        {"what": "authors' code", "p_poisson": 0.0},
        least=12,
    ),
    Claim(
        "half of each, beside the authors' code",
        "injection",
        {"what": "authors' code", "p_poisson": 0.5},
        least=11,
    ),
    Claim(
        "Poisson, beside the authors' code",
        "injection",
        {"what": "authors' code", "p_poisson": 1.0},
        least=11,
    ),
    Claim(
        "one blend, beside OpenCV's",
        "blending",
        {"what": "OpenCV seamlessClone", "mask": "all"},
        least=6,
    ),
)


def finding(balancing: pd.DataFrame, trained: pd.DataFrame) -> str:
    """Say in words what injection costs.

    Args:
        balancing: Of `injection`, for some shares of Poisson.
        trained: Of `training`, for some encoders.
    """
    ours = balancing[balancing["what"] == "dlilib"].set_index("p_poisson")["ms"]
    by_encoder = trained.pivot(index="encoder", columns="what", values="ms")
    shares = by_encoder["resident batch"] / by_encoder["with injection"]
    costs = ", ".join(f"{ms:.3g} ms at a share of {p:g}" for p, ms in ours.items())
    reached = ", ".join(f"{share:.0%} ({encoder})" for encoder, share in shares.items())
    return (
        f"A batch of 64 is balanced in {costs} of Poisson blending.\n"
        f"Training with injection reaches this much of the ceiling's speed: {reached}."
    )


def largest_difference(tiles: TileSet, device: str = "cpu", most: int = 8) -> float:
    """Compare the blend of a batch with one image at a time in double precision on the CPU.

    Args:
        tiles: The data set; its first defective images are blended into its first defect-free ones.
        device: Of the batch.
        most: Images.

    Returns:
        The largest difference, of images in [0, 1].
    """
    free, defective = ((tiles.labels > 0) == wanted for wanted in (False, True))
    most = min(most, int(free.sum()), int(defective.sum()))
    target, donor = (tiles.images[of][:most].float() / 255 for of in (free, defective))
    mask = tiles.masks[defective][:most] > 0
    fast = poisson_blend(*(x.to(device) for x in (target, donor, mask))).cpu()
    singles = zip(target.double().split(1), donor.double().split(1), mask.split(1), strict=True)
    exact = torch.cat([poisson_blend(*single) for single in singles])
    return float((fast - exact).abs().max())


def verdicts(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Tell whether the documented ratios hold on this machine.

    Args:
        tables: Those of `measurements` that were measured, by name.

    Returns:
        A row for each of `CLAIMS`: claim, said, here (the median ratio and its quartiles, "not
        measured" without its table or the other code), and holds: "yes", "no", or "–".
    """
    rows = []
    for claim in CLAIMS:
        frame = tables.get(claim.table, pd.DataFrame(columns=list(claim.row)))
        for column, value in claim.row.items():
            frame = frame[frame[column] == value]
        said = f"at least {claim.least:g}"
        if frame.empty:
            rows.append((claim.text, said, "not measured", "–"))
            continue
        ratio, low, high = frame.iloc[0][RATIOS]
        here = f"{ratio:.1f} ({low:.1f} to {high:.1f})"
        rows.append((claim.text, said, here, "yes" if ratio >= claim.least else "no"))
    return pd.DataFrame(rows, columns=["claim", "said", "here", "holds"])
