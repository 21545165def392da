"""The study's U-Nets: light encoders cut after stride 8, a whole ResNet-34, and their weights."""

import os
import threading
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file
from torch import Tensor, nn

DEPTH = 3  # stages of a light encoder, at strides 2, 4 and 8
MEAN, STD = 0.4319, 0.1196  # of the Magnetic Tiles in [0, 1], as released, for every channel
LIGHT_DECODER = (128, 64, 32)  # output channels of the decoder's stages
WHOLE_DECODER = (256, 128, 64, 32, 16)
SEEDED = threading.Lock()  # builds draw from torch's generator, which the whole process shares


@dataclass(frozen=True)
class Encoder:
    """All facts about one encoder."""

    name: str  # in segmentation-models-pytorch; "tu-": taken from timm
    repository: str  # of its ImageNet weights (safetensors) on the model hub
    revision: str  # of that repository
    decoder: tuple[int, ...] = LIGHT_DECODER  # channels, one a stage of the encoder
    unused: tuple[str, ...] = ()  # stages below the cut, which are removed
    channels_last_on_cpu: bool = False  # whether this layout is safe and faster on the CPU

    @property
    def light(self) -> bool:
        """Whether the encoder is cut after stride 8; the others keep all their stages."""
        return self.decoder == LIGHT_DECODER

    @property
    def stride(self) -> int:
        """What the sides of an image must be divisible by."""
        return 2 ** len(self.decoder)


# The cheapest first: the study runs them in this order.
ENCODERS = {
    "resnet18": Encoder(
        "resnet18",
        "smp-hub/resnet18.imagenet",
        "3f2325ff978283d47aa6a1d6878ca20565622683",
        unused=("layer3", "layer4"),
        channels_last_on_cpu=True,  # a third faster or more
    ),
    "mobileone_s1": Encoder(  # in channels_last it crashes the process on the CPU (torch 2.15.0)
        "mobileone_s1",
        "smp-hub/mobileone_s1.imagenet",
        "5707a98852b762cd8e0c43b5c8c729cd28496677",
        unused=("stage3", "stage4"),
    ),
    "resnest50d": Encoder("tu-resnest50d", "timm/resnest50d.in1k", "main"),
    "resnet34": Encoder(  # the few-shot paper's
        "resnet34",
        "smp-hub/resnet34.imagenet",
        "7a57b34f723329ff020b3f8bc41771163c519d0c",
        decoder=WHOLE_DECODER,
        channels_last_on_cpu=True,
    ),
}
LIGHT_ENCODERS = tuple(name for name, encoder in ENCODERS.items() if encoder.light)


def build(
    encoder: str, num_classes: int = 5, weights: str | None = None, seed: int = 0
) -> nn.Module:
    """Build a U-Net from images (B, 3, H, W) to logits (B, num_classes, H, W).

    H and W must be divisible by the encoder's stride: 8, or 32 for "resnet34".

    Args:
        encoder: A key of `ENCODERS`. "resnet18", "mobileone_s1" and "resnest50d" are cut after
            stride 8 (0.68, 0.33 and 1.58 million parameters); "resnet34" is whole (21.3 million).
        num_classes: Number of defect classes; the background is none of them.
        weights: None for random ones; "imagenet" for those in
            `DLILIB_WEIGHTS`/<encoder>.safetensors if it exists, else from the model hub.
        seed: Seed of the random weights.

    Returns:
        The model, on the CPU, in training mode. `.encoder` holds only the stages that run.

    Raises:
        ValueError: An argument is none of the above.
        WeightsError: The ImageNet weights cannot be had or do not fit; the message says what to do.

    Example:
        >>> model = build("resnet18", num_classes=5)
        >>> model(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 5, 64, 64])
    """
    if encoder not in ENCODERS:
        raise ValueError(f"encoder must be one of {tuple(ENCODERS)}, got {encoder!r}")
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    if weights not in (None, "imagenet"):
        raise ValueError(f'weights must be None or "imagenet", got {weights!r}')
    import segmentation_models_pytorch as smp  # takes seconds, which the transform is spared

    facts = ENCODERS[encoder]
    with SEEDED, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reseed CUDA
        model = smp.Unet(
            facts.name,
            encoder_depth=len(facts.decoder),
            encoder_weights=None,
            decoder_channels=facts.decoder,
            classes=num_classes,
        )
    for stage in facts.unused:
        delattr(model.encoder, stage)
    if weights:
        _load_imagenet(model.encoder, encoder)
    return model


def load(path: str | Path, encoder: str, num_classes: int) -> nn.Module:
    """Load a trained model, ready to predict.

    Args:
        path: The safetensors file that `fit(..., keep_model=True)` wrote.
        encoder: The model's encoder, a key of `ENCODERS`.
        num_classes: Number of the model's defect classes.

    Raises:
        WeightsError: The file does not hold such a model.
    """
    model = build(encoder, num_classes)
    _fill(model, _read(path), path, encoder)
    return model.eval()


def normalised(images: Tensor) -> Tensor:
    """Normalise images (B, C, H, W) in [0, 1], grey or RGB, for the models: (B, 3, H, W)."""
    return ((images - MEAN) / STD).expand(-1, 3, -1, -1)


def features(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Run a model on images (B, 3, H, W).

    Returns:
        The encoder's features at stride 8, (B, D, H / 8, W / 8), and the logits (B, K, H, W).
    """
    stages = model.encoder(images)
    return stages[DEPTH], model.segmentation_head(model.decoder(stages))


def parameters(module: nn.Module) -> int:
    """Count the parameters."""
    return sum(p.numel() for p in module.parameters())


def memory_format(encoder: str, device: torch.device) -> torch.memory_format:
    """Choose the faster tensor layout that is safe for this encoder on this device."""
    fast = device.type == "cuda" or ENCODERS[encoder].channels_last_on_cpu
    return torch.channels_last if fast else torch.contiguous_format


class WeightsError(RuntimeError):
    """ImageNet weights that cannot be had or do not fit."""


def _load_imagenet(module: nn.Module, encoder: str) -> None:
    path = Path(os.environ.get("DLILIB_WEIGHTS") or "$DLILIB_WEIGHTS") / f"{encoder}.safetensors"
    if path.exists():
        state, place = _read(path), path
    else:
        state, place = _read(_from_hub(encoder, path)), ENCODERS[encoder].repository
    found: dict[str, Tensor | None] = {}
    for name, value in module.state_dict().items():
        # timm prefixes its names with "model."; torchvision's own files lack the counters
        counter = value if name.endswith("num_batches_tracked") else None
        found[name] = state.get(name.removeprefix("model."), state.get(name, counter))
    _fill(module, found, place, encoder)


def _fill(
    module: nn.Module, state: dict[str, Tensor | None], place: str | Path, encoder: str
) -> None:
    wanted = module.state_dict()
    for name, value in wanted.items():
        tensor = state.get(name)
        if tensor is None:
            raise WeightsError(f"{place}: {name} of {encoder} is missing")
        if tensor.shape != value.shape:
            shapes = f"{tuple(tensor.shape)}, not {tuple(value.shape)}"
            raise WeightsError(f"{place}: {name} of {encoder} is {shapes}")
        same_kind = tensor.is_floating_point() == value.is_floating_point()
        if not same_kind or not tensor.isfinite().all():
            raise WeightsError(
                f"{place}: {name} of {encoder} holds {tensor.dtype} that are no weights, or not "
                "finite"
            )
    module.load_state_dict({name: state[name] for name in wanted})


def _read(path: str | Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:
        raise WeightsError(f"{path}: not a readable safetensors file: {error}") from None


def _from_hub(encoder: str, path: Path) -> str:
    facts = ENCODERS[encoder]
    try:
        return hf_hub_download(facts.repository, "model.safetensors", revision=facts.revision)
    except Exception as error:
        raise WeightsError(
            f"no ImageNet weights for {encoder}: {path} does not exist and {facts.repository} "
            f"could not be had from the hub ({type(error).__name__}). Go on with weights=None, or "
            "put the weights there."
        ) from None
