"""Procedural tiles: brushed metal with five kinds of defect, so that the whole study runs in small without any data."""

import cv2
import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from dlilib.data.images import check_size
from dlilib.data.magnetic import MT_CLASSES
from dlilib.tiles import TileSet

# a quarter of the Magnetic Tiles' images, class by class
TOY_COUNTS = {"Free": 238, "Blowhole": 29, "Break": 21, "Crack": 14, "Fray": 8, "Uneven": 26}
EXPOSURES = 4  # images of one tile, at most; fewer in rare classes, so that each has the five tiles of a tile split


def toy_tiles(seed: int = 0, size: int = 64) -> TileSet:
    """336 grey images of procedural metal tiles in the Magnetic Tiles' classes and proportions, in about a second.

    Each tile carries at most one defect and is photographed under up to four exposures that share the defect and the
    texture but not the lighting or the noise. size: side of the square images, pixels, a multiple of 8.
    The same seed and size give the same bytes.
    """
    check_size(size, "nearest")
    if seed < 0:
        raise ValueError(f"seed must be a non-negative integer, got {seed}")
    rng = np.random.default_rng(seed)
    images, masks, labels, tile, exposure = [], [], [], [], []
    for label, count in enumerate(TOY_COUNTS.values()):
        exposures = max(1, min(EXPOSURES, count // 5))
        for k in range(count):
            if k % exposures == 0:
                surface, mask = _tile(rng, size, label)
            images.append(_expose(rng, surface))
            masks.append(mask * np.uint8(label))
            labels.append(label)
            tile.append(tile[-1] + (k % exposures == 0) if tile else 0)
            exposure.append(k % exposures + 1)
    return TileSet(
        images=torch.from_numpy(np.stack(images))[:, None],
        masks=torch.from_numpy(np.stack(masks)),
        labels=torch.tensor(labels),
        tile=torch.tensor(tile),
        names=tuple(
            f"{[*TOY_COUNTS][c]}/exp{e}_tile_{t}"
            for c, e, t in zip(labels, exposure, tile, strict=True)
        ),
        classes=MT_CLASSES,
        source="toy",
        digest=f"seed {seed}",
        sizes=torch.full((len(labels), 2), size),
        exposure=torch.tensor(exposure),
    )


def _tile(rng: np.random.Generator, size: int, label: int) -> tuple[np.ndarray, np.ndarray]:
    """A surface, float (size, size) around 0.45, and its defect's mask, uint8 0 or 1."""
    brushed = gaussian_filter(rng.standard_normal((size, size)), (0.6, size / 6))
    mottled = gaussian_filter(rng.standard_normal((size, size)), size / 16)
    surface = 0.45 + 0.05 * brushed / brushed.std() + 0.03 * mottled / mottled.std()
    if label == 0:
        return surface, np.zeros((size, size), np.uint8)
    mask = (_blowhole, _break, _crack, _fray, _uneven)[label - 1](rng, size)
    soft = gaussian_filter(mask.astype(float), size / 128)
    rough = gaussian_filter(rng.standard_normal((size, size)), size / 64)
    shade = (-0.34, 0.25, -0.34, -0.05, -0.16)[label - 1] * rng.uniform(0.8, 1.2)
    grain = (0.0, 0.05, 0.0, 0.12, 0.0)[label - 1]
    return surface + soft * (shade + grain * rough / rough.std()), mask


def _expose(rng: np.random.Generator, surface: np.ndarray) -> np.ndarray:
    """One photograph, uint8: gain, a lighting ramp across the tile, sensor noise."""
    y, x = np.mgrid[-1 : 1 : 1j * len(surface), -1 : 1 : 1j * len(surface)]
    slope_y, slope_x = rng.uniform(-0.08, 0.08, 2)
    light = rng.uniform(0.8, 1.2) * surface + slope_y * y + slope_x * x
    return (
        (255 * (light + 0.01 * rng.standard_normal(surface.shape)))
        .clip(0, 255)
        .round()
        .astype(np.uint8)
    )


def _blowhole(rng: np.random.Generator, size: int) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    for _ in range(rng.integers(1, 3)):
        centre = rng.integers(size // 6, size - size // 6, 2).tolist()
        axes = np.maximum(1, rng.uniform(0.04, 0.06, 2) * size).round().astype(int).tolist()
        cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
    return mask


def _break(rng: np.random.Generator, size: int) -> np.ndarray:
    angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
    radius = rng.uniform(0.09, 0.19, 9) * size
    centre = rng.uniform(0.2, 0.8, 2) * size
    corners = centre + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return cv2.fillPoly(np.zeros((size, size), np.uint8), [corners.round().astype(np.int32)], 1)


def _crack(rng: np.random.Generator, size: int) -> np.ndarray:
    direction = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.35, 12))
    steps = 0.05 * size * np.stack([np.cos(direction), np.sin(direction)], axis=1)
    path = np.cumsum(steps, axis=0)
    path += rng.uniform(0.35, 0.65, 2) * size - path.mean(axis=0)
    width = max(1, round(size / 32))
    return cv2.polylines(
        np.zeros((size, size), np.uint8), [path.round().astype(np.int32)], False, 1, width
    )


def _fray(rng: np.random.Generator, size: int) -> np.ndarray:
    side = size * rng.uniform(0.3, 0.55)
    wave = gaussian_filter(rng.standard_normal(size), size / 24)
    edge = side * 0.45 + 0.05 * size * wave / wave.std()
    mask = np.arange(size)[:, None] < edge[None]
    return np.rot90(mask, rng.integers(4)).astype(np.uint8)


def _uneven(rng: np.random.Generator, size: int) -> np.ndarray:
    y, x = np.mgrid[0 : 1 : 1j * size, 0 : 1 : 1j * size]
    angle, centre = rng.uniform(0, np.pi), rng.uniform(0.35, 0.65, 2)
    across = (x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)
    return (np.abs(across) < rng.uniform(0.09, 0.14)).astype(np.uint8)
