"""One injection by hand, in JupyterLab.

Controls set what DLI would draw at random, and a picture follows them live.
"""

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
from dlilib.analysis.figures.style import SMALL, wrapped
from dlilib.balance import Plan
from dlilib.blend import GUIDANCES, REGIONS
from dlilib.composite import LABELS, inject
from dlilib.donors import Donors
from dlilib.tiles import TileSet

BRIGHTEST = 80  # grey levels, where the colours of the difference end
PLACES = {  # of three square panels and their colour bar, as shares of the figure
    "left": 0.005,
    "right": 0.915,
    "bottom": 0.02,
    "top": 0.84,
    "wspace": 0.03,
    "width_ratios": (1, 1, 1, 0.05),
}
WIDE: dict[str, Any] = {
    "style": {"description_width": "9em"},
    "layout": Layout(width="30em", max_width="97%"),
}


def inject_one(
    tiles: TileSet,
    target: int,
    donor: int,
    *,
    rotation: float = 0.0,
    scale: float = 1.0,
    poisson: bool = True,
    **options: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Inject a donor's defect into an image.

    Args:
        tiles: Where both come from.
        target: Index into tiles of the image to inject into.
        donor: Index into tiles of the donor, which also sets the class.
        rotation: Of the donor about the image's centre, degrees clockwise.
        scale: Of the donor about the image's centre, a factor.
        poisson: Blend by Poisson; else by cut-paste.
        **options: region, guidance and label, as in `inject`.

    Returns:
        The image (C, H, W), float in [0, 1] and not clipped, as `inject` gives it; its mask (H, W);
        and the absolute change of the image's pixels (C, H, W).
    """
    height, width = tiles.images.shape[2:]
    plan = Plan(
        target=torch.tensor([0]),
        label=tiles.labels[[donor]],
        donor=torch.tensor([donor]),
        maps=_turned(rotation, scale, (height - 1) / (width - 1)),
        poisson=torch.tensor([poisson]),
    )
    before = tiles.images[[target]].float() / 255  # (1, C, H, W)
    images, masks, _ = inject(
        plan,
        before,
        tiles.masks[[target]],
        tiles.labels[[target]],
        Donors.of(tiles, [donor], empty=True),
        **options,
    )
    return images[0], masks[0], (images - before).abs()[0]


def _turned(rotation: float, scale: float, aspect: float) -> Tensor:
    """The map (1, 2, 3) that `augment.warp` takes: from output to input, hence the inverse."""
    angle = math.radians(rotation)
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    return torch.tensor([[[cos, sin * aspect, 0.0], [-sin / aspect, cos, 0.0]]])


def picture(
    tiles: TileSet, target: int, donor: int, p_poisson: float, seed: int, **how: Any
) -> bytes:
    """Draw a composite, its mask and its difference to the target, side by side.

    Args:
        tiles: As in `inject_one`, and so are target and donor.
        target: Index of the image to inject into.
        donor: Index of the donor.
        p_poisson: Probability of Poisson blending: it is chosen where the seed's draw from [0, 1)
            is below, else cut-paste.
        seed: Of that draw.
        **how: The other arguments of `inject_one`, but for poisson.

    Returns:
        A PNG.
    """
    drawn = torch.rand((), generator=Generator().manual_seed(seed)).item()
    poisson = drawn < p_poisson
    image, label, change = inject_one(tiles, target, donor, poisson=poisson, **how)
    levels = 255 * change.amax(dim=0)  # (H, W), grey levels
    outside = torch.where(label == 0, levels, 0).max()
    name = tiles.classes[tiles.labels[donor] - 1]
    blend = "Poisson" if poisson else "cut-paste"
    titles = (
        f"{blend} (the seed drew {drawn:.3f})",
        f"label: {name}, {int((label > 0).sum())} pixels",
        f"|difference|, outside the label ≤ {outside:.1f}",
    )
    png = io.BytesIO()
    quickest = {"compress_level": 1}
    _panels(image, label, levels, titles).savefig(png, format="png", pil_kwargs=quickest)
    return png.getvalue()


def _panels(image: Tensor, label: Tensor, levels: Tensor, titles: Sequence[str]) -> Figure:
    """Image, mask and grey levels of the difference (H, W), with the colour bar of the latter."""
    figure = Figure(figsize=(6.4, 2.3), dpi=150)
    *axes, bar = figure.subplots(1, 4, gridspec_kw=PLACES)
    show_image(axes[0], image)
    show_image(axes[1], label)
    shown = axes[2].imshow(levels.numpy(), cmap="rocket", vmin=0, vmax=BRIGHTEST)
    axes[2].set(xticks=[], yticks=[])
    figure.colorbar(shown, cax=bar, extend="max")
    bar.set_ylabel("grey levels", fontsize=SMALL)
    bar.tick_params(labelsize=SMALL)
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(wrapped(title, 24), fontsize=SMALL)
    return figure


class Explorer(VBox):
    """Controls above their picture; the picture alone where no widget runs, as in a static page."""

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        png = base64.b64encode(self.children[-1].value).decode()
        return {**super()._repr_mimebundle_(**kwargs), "image/png": png}


def explore(tiles: TileSet, donors: np.ndarray | Tensor | None = None, seed: int = 0) -> Explorer:
    """Show controls for every choice of one injection, and its picture, which follows them.

    Every defect-free image can be the target.

    Args:
        tiles: The data set.
        donors: Indices into tiles of the donors to choose from; None: all.
        seed: The first value of the seed's control.

    Returns:
        A widget, to be the last expression of a notebook's cell.

    Raises:
        ValueError: There is no defect-free image, or a class has no donor.

    Example:
        >>> explorer = explore(dlilib.toy_tiles())
        >>> explorer.children[-1].format
        'png'
    """
    if not (tiles.labels == 0).any():
        raise ValueError(f"{tiles.source} has no defect-free image to inject into")
    found = Donors.of(tiles, donors, empty=True)
    found.require(tiles.classes)
    members = [found.ids[positions] for positions in found.members]
    classes = Dropdown(
        description="class", options=[(name, k) for k, name in enumerate(tiles.classes)], **WIDE
    )
    controls = _controls(tiles, members, seed)
    shown = ipywidgets.Image(format="png", layout=Layout(max_width="100%"))

    def offer_donors(_: Any = None) -> None:
        controls["donor"].options = _named(tiles, members[classes.value])

    def draw(_: Any = None) -> None:
        chosen = {name: control.value for name, control in controls.items()}
        shown.value = picture(tiles, **chosen)

    classes.observe(offer_donors, "value")
    for control in controls.values():
        control.observe(draw, "value")
    draw()
    widgets = list(controls.values())
    left, right = VBox([classes, *widgets[:4]]), VBox(widgets[4:])
    return Explorer([HBox([left, right], layout=Layout(flex_flow="row wrap")), shown])


def _controls(
    tiles: TileSet, members: list[Tensor], seed: int
) -> dict[str, ipywidgets.ValueWidget]:
    """Argument of `picture` -> its control, for all of them but the tiles."""
    targets = _named(tiles, (tiles.labels == 0).nonzero()[:, 0])
    return {
        "donor": Dropdown(description="donor", options=_named(tiles, members[0]), **WIDE),
        "target": Dropdown(description="target image", options=targets, **WIDE),
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
        "guidance": Dropdown(options=tuple(GUIDANCES), description="guidance", **WIDE),
        "region": Dropdown(options=tuple(REGIONS), description="region", **WIDE),
        "label": Dropdown(options=LABELS, description="blend label", **WIDE),
    }


def _named(tiles: TileSet, indices: Tensor) -> list[tuple[str, int]]:
    """Names of images with their indices, as a Dropdown takes its options."""
    return [(tiles.names[i], i) for i in indices.tolist()]
