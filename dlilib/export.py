"""Export a trained model to ONNX, for machines without torch, and run it there."""

import io
from pathlib import Path

import numpy as np
import torch
from timm.utils import reparameterize_model
from torch import Tensor, nn

from dlilib import models
from dlilib.checks import is_count
from dlilib.data.files import write_whole
from dlilib.extras import require
from dlilib.models import check_model

MOST = 1024  # images in a batch of an exported model
LARGEST = 8192  # pixels, side of an image of an exported model


class Segmenter(nn.Module):
    """A trained model from raw images to logits, ready for export.

    It holds a copy of the model, with the training branches of MobileOne merged into one
    convolution. The model itself is not changed.

    Args:
        model: A model as `models.load` gives it.

    Example:
        >>> segmenter = Segmenter(models.load("model.safetensors"))
        >>> logits = segmenter(torch.rand(1, 1, 256, 256))
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = reparameterize_model(model).requires_grad_(False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits of images.

        Args:
            images: (B, C, H, W) float in [0, 1], grey or RGB.

        Returns:
            (B, K, H, W), positive where the class is predicted.
        """
        _, logits = models.features(self.model, self.model.normalised(images))
        return logits


def to_onnx(
    model: nn.Module, path: str | Path, shape: tuple[int, int | None, int | None] = (1, None, None)
) -> Path:
    """Write a model as one ONNX file, which computes what `Segmenter(model)` does.

    Its input "images" is (B, C, H, W) float32 in [0, 1], with B up to 1024; its output "logits" is
    (B, K, H, W). The file holds the mean and deviation that the images are normalised by, and as
    metadata, in JSON, what `model.trained_on` tells.

    Args:
        model: A model as `models.load` gives it.
        path: The file to write.
        shape: (C, H, W) of the images: C 1 or 3; H and W fixed, or None for any up to 8192. Either
            way they must be divisible by the encoder's stride.

    Returns:
        `path`.

    Raises:
        ValueError: The model or the shape is none of these.
        MissingExtraError: onnxscript is not installed.
        WriteError: The file cannot be written.

    Example:
        >>> model = models.load("model.safetensors")
        >>> path = to_onnx(model, "model.onnx", shape=(1, 256, 256))
    """
    check_model(model, "trained_on")
    _check_shape(shape, model.stride)
    require("onnxscript", "export")
    path = Path(path)
    channels, *sides = shape
    free = {0: torch.export.Dim("batch", max=MOST)}
    for axis, (name, side) in enumerate(zip(("height", "width"), sides, strict=True), start=2):
        if side is None:
            strides = torch.export.Dim(f"{name}_in_strides", max=LARGEST // model.stride)
            free[axis] = model.stride * strides
    example = [side or (k + 4) * model.stride for k, side in enumerate(sides)]
    program = torch.onnx.export(
        Segmenter(model).cpu().float(),
        (torch.zeros(2, channels, *example),),
        dynamo=True,
        verbose=False,
        dynamic_shapes={"images": free},
        input_names=["images"],
        output_names=["logits"],
    )
    if model.trained_on is not None:
        program.model.metadata_props.update(model.trained_on.as_text())
    buffer = io.BytesIO()
    program.save(buffer)
    write_whole(path, buffer.getvalue())
    return path


def _check_shape(shape: tuple[int, int | None, int | None], stride: int) -> None:
    row = isinstance(shape, tuple | list) and len(shape) == 3
    if not row or shape[0] not in (1, 3) or not all(s is None or is_count(s) for s in shape[1:]):
        raise ValueError(f"shape must be (C, H, W), C 1 or 3, H and W or None, got {shape!r}")
    for side in shape[1:]:
        if side is not None and (side > LARGEST or side % stride):
            raise ValueError(
                f"shape must have sides divisible by {stride}, the encoder's stride, up to "
                f"{LARGEST}, got {shape!r}"
            )


class Runtime:
    """An exported model on onnxruntime, on the CPU.

    Args:
        path: The file that `to_onnx` wrote.

    Raises:
        MissingExtraError: onnxruntime is not installed.

    Example:
        >>> runtime = Runtime("model.onnx")
        >>> logits = runtime(np.zeros((1, 1, 256, 256), np.float32))
    """

    def __init__(self, path: str | Path) -> None:
        onnxruntime = require("onnxruntime", "export")
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Compute the logits of images.

        Args:
            images: (B, C, H, W) float32 in [0, 1], of a shape that was exported.

        Returns:
            float32 (B, K, H, W), positive where the class is predicted.
        """
        return self.session.run(["logits"], {"images": images})[0]
