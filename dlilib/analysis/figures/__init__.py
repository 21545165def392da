"""The study's figures: one function each, which returns its Axes."""

from dlilib.analysis.figures.dataset import areas_and_sizes, class_distribution
from dlilib.analysis.figures.images import (
    changes,
    example_maps,
    image_grid,
    overview,
    predicted_masks,
    show_image,
)
from dlilib.analysis.figures.scores import (
    class_iou_bars,
    data_fraction,
    effects,
    feature_planes,
    few_shot,
    lead_curves,
    learning_curves,
)
from dlilib.analysis.figures.speed import timings
from dlilib.analysis.figures.style import PALETTE, save

__all__ = [
    "PALETTE",
    "areas_and_sizes",
    "changes",
    "class_distribution",
    "class_iou_bars",
    "data_fraction",
    "effects",
    "example_maps",
    "feature_planes",
    "few_shot",
    "image_grid",
    "lead_curves",
    "learning_curves",
    "overview",
    "predicted_masks",
    "save",
    "show_image",
    "timings",
]
