"""A trained model as one ONNX file, for a line that has neither Python nor torch, and what it gives there."""

import importlib.util
import io
from pathlib import Path

import numpy as np
import torch
from timm.utils import reparameterize_model
from torch import Tensor, nn

from dlilib import models
from dlilib.data.files import write_whole


class Segmenter(nn.Module):
    """From images (B, C, H, W) float in [0, 1], grey or RGB, to logits (B, K, H, W), whose sign says where a class is.

    A copy of a model as `models.load` gives it, with the training branches of MobileOne merged into one convolution.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = reparameterize_model(model).requires_grad_(False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K, H, W)."""
        return models.features(self.model, models.normalised(images))[1]


def to_onnx(model: nn.Module, path: str | Path, shape: tuple[int, int, int]) -> Path:
    """Write `Segmenter(model)` to `path`: input "images" (any B, *shape), shape (C, H, W); output "logits".

    H and W are fixed, divisible by `models.stride` of the encoder. Raises ValueError where onnxscript is missing.
    """
    _need("onnxscript")
    buffer, path = io.BytesIO(), Path(path)
    batch = {"images": {0: torch.export.Dim("batch", max=1024)}}
    program = torch.onnx.export(
        Segmenter(model),
        (torch.zeros(2, *shape),),
        dynamo=True,
        verbose=False,
        dynamic_shapes=batch,
        input_names=["images"],
        output_names=["logits"],
    )
    program.save(buffer)
    write_whole(path, buffer.getvalue())
    return path


class Runtime:
    """An exported model on onnxruntime and this CPU: runtime(images) as `Segmenter`, on arrays."""

    def __init__(self, path: str | Path) -> None:
        _need("onnxruntime")
        from onnxruntime import InferenceSession

        self.session = InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Logits (B, K, H, W) of images (B, C, H, W) float32 in [0, 1]."""
        return self.session.run(["logits"], {"images": images})[0]


def _need(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise ValueError(f"{module} is missing: pip install 'dlilib[export]'")
