"""What one injection does to a batch, as tables."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from dlilib.balance import Plan, plan_classes
from dlilib.tiles import FREE, TileSet


def plan_table(plan: Plan, tiles: TileSet) -> pd.DataFrame:
    """List a plan's injections.

    Args:
        plan: Of one batch.
        tiles: The data set of its donors.

    Returns:
        A row each: image (its position in the batch), class, donor (the name of its image) and
        blend.
    """
    table = pd.DataFrame(
        {
            "image": plan.target,
            "class": [tiles.classes[label - 1] for label in plan.label],
            "donor": [tiles.names[donor] for donor in plan.donor],
            "blend": np.where(plan.poisson, "Poisson", "cut-paste"),
        }
    )
    return table.set_index("image")


def class_counts(batches: dict[str, Tensor], classes: Sequence[str]) -> pd.DataFrame:
    """Count the images of each class.

    Args:
        batches: Title -> labels of a batch, (B,), 0 defect-free.
        classes: Names of the classes 1..K.

    Returns:
        A row for each batch, a column for each class, the defect-free images first.
    """
    names = [FREE, *classes]
    rows = {title: np.bincount(labels, minlength=len(names)) for title, labels in batches.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=names)


def defect_free_left(batches: Sequence[Tensor], num_classes: int) -> pd.DataFrame:
    """Count the defect-free images that each rule leaves as they are, batch by batch.

    Args:
        batches: Labels of each batch, (B,), 0 defect-free.
        num_classes: K.

    Returns:
        A row for each rule, "filled" and "uniform", a column for each batch.
    """
    rows = {}
    for until in ("filled", "uniform"):
        plans = [plan_classes(labels, num_classes, until) for labels in batches]
        pairs = zip(plans, batches, strict=True)
        rows[until] = [int(((chosen == 0) & (labels == 0)).sum()) for chosen, labels in pairs]
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(columns="batch")


def changes(
    before: Tensor, composites: dict[str, Tensor], masks: Tensor
) -> tuple[dict[str, Tensor], pd.DataFrame]:
    """Measure what each variant of blending changes, inside the mask and outside.

    Args:
        before: The images, (B, C, H, W) in [0, 1].
        composites: Title -> the same images after injection.
        masks: (B, H, W), above 0 where a defect is labelled.

    Returns:
        Title -> absolute change of the first channel, (B, H, W), and a table of its means and its
        maximum in grey levels, a row for each title.
    """
    inside = masks > 0
    found = {title: (after - before)[:, 0].abs() for title, after in composites.items()}
    rows = {}
    for title, change in found.items():
        rows[title] = {
            "mean change inside the mask": 255 * float(change[inside].mean()),
            "mean change outside": 255 * float(change[~inside].mean()),
            "largest change outside": 255 * float(change[~inside].max()),
        }
    return found, pd.DataFrame.from_dict(rows, orient="index")
