"""Procedural images of brushed metal with five kinds of defect, for the study without any data."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from dlilib.checks import is_count
from dlilib.data.images import check_size
from dlilib.data.magnetic import MT_CLASSES
from dlilib.extras import require
from dlilib.tiles import TileSet

# a quarter of the Magnetic Tiles' images, class by class
TOY_COUNTS = {"Free": 238, "Blowhole": 29, "Break": 21, "Crack": 14, "Fray": 8, "Uneven": 26}
# images of one part, at most; fewer in rare classes, so that each has the five parts that the split
# protocol "tile" needs
EXPOSURES = 4


def toy_tiles(seed: int = 0, size: int = 64) -> TileSet:
    """Draw 336 grey images of metal parts in the Magnetic Tiles' classes and proportions.

    It takes about a second. Each part has at most one defect. Up to four exposures show it: they
    share the defect and the texture, not the lighting or the noise.

    Args:
        seed: Of every draw, a non-negative integer. The same seed and size give the same bytes.
        size: Side of the square images, pixels, a multiple of 8.

    Returns:
        The data set: images uint8 (336, 1, size, size).

    Raises:
        ValueError: seed or size is none of the above.
        MissingExtraError: scipy is not installed.

    Example:
        >>> toy_tiles().counts()
        {'Blowhole': 29, 'Break': 21, 'Crack': 14, 'Fray': 8, 'Uneven': 26, 'Free': 238}
    """
    check_size(size, "nearest")
    if not is_count(seed, 0):
        raise ValueError(f"seed must be a non-negative integer, got {seed!r}")
    rng = np.random.default_rng(seed)
    images, masks, labels, parts, exposures, names = [], [], [], [], [], []
    part = -1
    for label, (name, count) in enumerate(TOY_COUNTS.items()):
        of_a_part = max(1, min(EXPOSURES, count // 5))
        for k in range(count):
            exposure = k % of_a_part + 1
            if exposure == 1:
                part += 1
                surface, mask = _surface(rng, size, label)
            images.append(_expose(rng, surface))
            masks.append(mask * np.uint8(label))
            labels.append(label)
            parts.append(part)
            exposures.append(exposure)
            names.append(f"{name}/exp{exposure}_tile_{part}")
    return TileSet(
        images=torch.from_numpy(np.stack(images))[:, None],
        masks=torch.from_numpy(np.stack(masks)),
        labels=torch.tensor(labels, device="cpu"),
        groups=torch.tensor(parts, device="cpu"),
        names=tuple(names),
        classes=MT_CLASSES,
        source="toy",
        digest=f"seed {seed}",
        sizes=torch.full((len(labels), 2), size, device="cpu"),
        exposure=torch.tensor(exposures, device="cpu"),
    )


def _surface(rng: np.random.Generator, size: int, label: int) -> tuple[np.ndarray, np.ndarray]:
    """A part's surface, float (size, size) around 0.45, and its defect's mask, uint8 0 or 1."""
    brushed = _blur(rng.standard_normal((size, size)), (0.6, size / 6))
    mottled = _blur(rng.standard_normal((size, size)), size / 16)
    surface = 0.45 + 0.05 * brushed / brushed.std() + 0.03 * mottled / mottled.std()
    if label == 0:
        return surface, np.zeros((size, size), np.uint8)
    defect = DEFECTS[label - 1]
    mask = defect.draw(rng, size)
    soft = _blur(mask.astype(float), size / 128)
    rough = _blur(rng.standard_normal((size, size)), size / 64)
    shade = defect.shade * rng.uniform(0.8, 1.2)
    return surface + soft * (shade + defect.grain * rough / rough.std()), mask


def _expose(rng: np.random.Generator, surface: np.ndarray) -> np.ndarray:
    """One photograph, uint8: gain, a lighting ramp across the part, sensor noise."""
    y, x = np.mgrid[-1 : 1 : 1j * len(surface), -1 : 1 : 1j * len(surface)]
    slope_y, slope_x = rng.uniform(-0.08, 0.08, 2)
    gain = rng.uniform(0.8, 1.2)
    light = gain * surface + slope_y * y + slope_x * x
    levels = 255 * (light + 0.01 * rng.standard_normal(surface.shape))
    return levels.clip(0, 255).round().astype(np.uint8)


def _blur(pixels: np.ndarray, sigma: float | tuple[float, float]) -> np.ndarray:
    """Gaussian blur; sigma: in pixels, one or one an axis."""
    return require("scipy.ndimage", "study").gaussian_filter(pixels, sigma)


def _blowhole(rng: np.random.Generator, size: int) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    for _ in range(rng.integers(1, 3)):
        centre = rng.integers(size // 6, size - size // 6, 2).tolist()
        axes = np.maximum(1, rng.uniform(0.04, 0.06, 2) * size).round().astype(int).tolist()
        angle = float(rng.uniform(0, 180))
        cv2.ellipse(mask, centre, axes, angle, 0, 360, 1, -1)
    return mask


def _break(rng: np.random.Generator, size: int) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
    radius = rng.uniform(0.09, 0.19, 9) * size
    centre = rng.uniform(0.2, 0.8, 2) * size
    corners = centre + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return cv2.fillPoly(mask, [corners.round().astype(np.int32)], 1)


def _crack(rng: np.random.Generator, size: int) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    direction = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.35, 12))
    steps = 0.05 * size * np.stack([np.cos(direction), np.sin(direction)], axis=1)
    path = np.cumsum(steps, axis=0)
    path += rng.uniform(0.35, 0.65, 2) * size - path.mean(axis=0)
    width = max(1, round(size / 32))
    return cv2.polylines(mask, [path.round().astype(np.int32)], False, 1, width)


def _fray(rng: np.random.Generator, size: int) -> np.ndarray:
    side = size * rng.uniform(0.3, 0.55)
    wave = _blur(rng.standard_normal(size), size / 24)
    edge = side * 0.45 + 0.05 * size * wave / wave.std()
    mask = np.arange(size)[:, None] < edge[None]
    return np.rot90(mask, rng.integers(4)).astype(np.uint8)


def _uneven(rng: np.random.Generator, size: int) -> np.ndarray:
    y, x = np.mgrid[0 : 1 : 1j * size, 0 : 1 : 1j * size]
    angle = rng.uniform(0, np.pi)
    centre_x, centre_y = rng.uniform(0.35, 0.65, 2)
    across = (x - centre_x) * np.cos(angle) + (y - centre_y) * np.sin(angle)
    return (np.abs(across) < rng.uniform(0.09, 0.14)).astype(np.uint8)


@dataclass(frozen=True)
class Defect:
    """How a class of defect looks."""

    draw: Callable[[np.random.Generator, int], np.ndarray]  # its mask, uint8 0 or 1 (size, size)
    shade: float  # added to the surface, whose range is 0..1
    grain: float = 0.0  # standard deviation of its texture


DEFECTS = (  # of the classes 1..K
    Defect(_blowhole, shade=-0.34),
    Defect(_break, shade=0.25, grain=0.05),
    Defect(_crack, shade=-0.34),
    Defect(_fray, shade=-0.05, grain=0.12),
    Defect(_uneven, shade=-0.16),
)
