"""One injection by hand: what DLI draws is set by controls instead, and a picture follows them live in JupyterLab."""

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import ipywidgets
import numpy as np
import torch
from ipywidgets import Dropdown, HBox, Layout, VBox
from matplotlib.figure import Figure
from torch import Generator, Tensor

from dlilib.analysis.figures import show_image
from dlilib.balance import DonorBank, Plan
from dlilib.blend import GUIDANCES, REGIONS
from dlilib.inject import LABELS, inject
from dlilib.tiles import TileSet

BRIGHTEST = 80  # grey levels, where the colours of the difference end
PLACES = {
    "left": 0.005,
    "right": 0.945,
    "bottom": 0.02,
    "top": 0.91,
    "wspace": 0.03,
    "width_ratios": (1, 1, 1, 0.05),
}
WIDE = {"style": {"description_width": "9em"}, "layout": Layout(width="30em", max_width="97%")}


def inject_one(
    tiles: TileSet,
    target: int,
    donor: int,
    rotation: float = 0.0,
    scale: float = 1.0,
    poisson: bool = True,
    **options: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """A donor's defect in a tile: the image (C, H, W), its label (H, W) and by how much the image differs (C, H, W).

    target, donor: indices into tiles; the class is the donor's. rotation: degrees clockwise, scale: a factor, both
    about the centre. poisson: else cut-paste. options: region, guidance and label, as in `inject`.
    Images are float in [0, 1] and not clipped, as there.
    """
    label, height, width = tiles.labels[[donor]], *tiles.images.shape[2:]
    maps = _turned(rotation, scale, (height - 1) / (width - 1))
    plan = Plan(torch.tensor([0]), label, torch.tensor([donor]), maps, torch.tensor([poisson]))
    before = tiles.images[[target]].float() / 255
    images, masks, _ = inject(
        plan, before, tiles.masks[[target]], tiles.labels[[target]], tiles, **options
    )
    return images[0], masks[0], (images - before).abs()[0]


def _turned(rotation: float, scale: float, aspect: float) -> Tensor:
    """The map (1, 2, 3) that `augment.warp` takes: from output to input, hence the inverse."""
    cos, sin = (f(math.radians(rotation)) / scale for f in (math.cos, math.sin))
    return torch.tensor([[[cos, sin * aspect, 0.0], [-sin / aspect, cos, 0.0]]])


def picture(
    tiles: TileSet, target: int, donor: int, p_poisson: float, seed: int, **how: Any
) -> bytes:
    """PNG of a composite, its label and its difference to the target; how: the rest of what `inject_one` takes.

    The blend is Poisson where the seed's draw from [0, 1) is below p_poisson, else cut-paste.
    """
    drawn = torch.rand((), generator=Generator().manual_seed(seed)).item()
    image, label, change = inject_one(tiles, target, donor, poisson=drawn < p_poisson, **how)
    change = 255 * change.amax(dim=0)
    name, outside = tiles.classes[tiles.labels[donor] - 1], torch.where(label == 0, change, 0).max()
    titles = (
        f"{'Poisson' if drawn < p_poisson else 'cut-paste'} (the seed drew {drawn:.3f})",
        f"label: {name}, {int((label > 0).sum())} pixels",
        f"|difference|, outside the label ≤ {outside:.1f}",
    )
    png = io.BytesIO()
    _panels(image, label, change, titles).savefig(
        png, format="png", pil_kwargs={"compress_level": 1}
    )  # the quickest
    return png.getvalue()


def _panels(image: Tensor, label: Tensor, change: Tensor, titles: Sequence[str]) -> Figure:
    figure = Figure(figsize=(9.6, 3.3), dpi=100)
    *axes, bar = figure.subplots(1, 4, gridspec_kw=PLACES)
    show_image(axes[0], image)
    show_image(axes[1], label)
    shown = axes[2].imshow(change.numpy(), cmap="rocket", vmin=0, vmax=BRIGHTEST)
    axes[2].set(xticks=[], yticks=[])
    figure.colorbar(shown, cax=bar, extend="max", label="grey levels")
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title, fontsize="medium")
    return figure


class Explorer(VBox):
    """Controls over their picture; where no widget can live, as in a rendered page, the picture alone."""

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        png = base64.b64encode(self.children[-1].value).decode()
        return {**super()._repr_mimebundle_(**kwargs), "image/png": png}


def explore(tiles: TileSet, donors: np.ndarray | Tensor | None = None, seed: int = 0) -> Explorer:
    """Controls for every choice of one injection and the picture of it, which follows them.

    donors: indices of the tiles whose defects are offered, default all; targets are all free tiles. seed: the first.
    Raises ValueError for tiles without a free one, and as `DonorBank.of`.
    """
    if not (tiles.labels == 0).any():
        raise ValueError(f"{tiles.source} has no free tile to inject into")
    bank = DonorBank.of(tiles, donors)
    classes = Dropdown(
        description="class", options=[(name, k) for k, name in enumerate(tiles.classes)], **WIDE
    )
    controls, shown = (
        _controls(tiles, bank, seed),
        ipywidgets.Image(format="png", layout=Layout(max_width="100%")),
    )

    def offer(_: Any = None) -> None:
        controls["donor"].options = _named(tiles, bank.members[classes.value])

    def draw(_: Any = None) -> None:
        shown.value = picture(tiles, **{name: control.value for name, control in controls.items()})

    classes.observe(offer, "value")
    for control in controls.values():
        control.observe(draw, "value")
    draw()
    what, how = list(controls.values())[:4], list(controls.values())[4:]
    return Explorer(
        [HBox([VBox([classes, *what]), VBox(how)], layout=Layout(flex_flow="row wrap")), shown]
    )


def _controls(tiles: TileSet, bank: DonorBank, seed: int) -> dict[str, ipywidgets.ValueWidget]:
    """A control for every argument of `picture` after the tiles."""
    free = _named(tiles, (tiles.labels == 0).nonzero()[:, 0])
    return {
        "donor": Dropdown(description="donor", options=_named(tiles, bank.members[0]), **WIDE),
        "target": Dropdown(description="target tile", options=free, **WIDE),
        "rotation": ipywidgets.IntSlider(
            0, min=-180, max=180, description="rotation, degrees", **WIDE
        ),
        "scale": ipywidgets.FloatSlider(
            1, min=0.5, max=2, step=0.05, description="scale, factor", **WIDE
        ),
        "p_poisson": ipywidgets.FloatSlider(
            0.5, min=0, max=1, step=0.05, description="p_poisson", **WIDE
        ),
        "seed": ipywidgets.BoundedIntText(seed, min=0, max=2**31 - 1, description="seed", **WIDE),
        "guidance": Dropdown(options=GUIDANCES, description="guidance", **WIDE),
        "region": Dropdown(options=REGIONS, description="region", **WIDE),
        "label": Dropdown(options=LABELS, description="blend label", **WIDE),
    }


def _named(tiles: TileSet, indices: Tensor) -> list[tuple[str, int]]:
    return [(tiles.names[i], i) for i in indices.tolist()]
