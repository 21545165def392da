"""The study's U-Nets: light encoders cut after stride 8, a whole ResNet-34, and where their weights come from."""

import os
import threading
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file
from torch import Tensor, nn

# our name -> the encoder's name in segmentation-models-pytorch ("tu-": from timm)
ENCODERS = {"resnest50d": "tu-resnest50d", **{name: name for name in ("resnet18", "mobileone_s1", "resnet34")}}
WHOLE = ("resnet34",)  # of the few-shot paper; the others keep DEPTH stages
LIGHT = tuple(name for name in ENCODERS if name not in WHOLE)
# safetensors on the model hub: repository and revision
HUB = {
    "resnest50d": ("timm/resnest50d.in1k", "main"),
    "resnet18": ("smp-hub/resnet18.imagenet", "3f2325ff978283d47aa6a1d6878ca20565622683"),
    "mobileone_s1": ("smp-hub/mobileone_s1.imagenet", "5707a98852b762cd8e0c43b5c8c729cd28496677"),
    "resnet34": ("smp-hub/resnet34.imagenet", "7a57b34f723329ff020b3f8bc41771163c519d0c"),
}
UNUSED = {"resnet18": ("layer3", "layer4"), "mobileone_s1": ("stage3", "stage4")}
DEPTH = 3  # stages kept: strides 2, 4, 8
MEAN, STD = 0.4319, 0.1196  # of the Magnetic Tiles in [0, 1], as released, for every channel
DECODER_CHANNELS = (128, 64, 32)
WHOLE_CHANNELS = (256, 128, 64, 32, 16)
SEEDED = threading.Lock()  # torch's generator, which builds draw from, is the whole process's
# mobileone_s1 crashes in this layout on the CPU (torch 2.15.0); ResNet-18 gains a third or more
CHANNELS_LAST_ON_CPU = ("resnet18", "resnet34")


def build(encoder: str, num_classes: int = 5, weights: str | None = None, seed: int = 0) -> nn.Module:
    """U-Net from (B, 3, H, W) to logits (B, num_classes, H, W); H and W divisible by `stride(encoder)`.

    encoder: "resnest50d", "resnet18" or "mobileone_s1": 1.58, 0.68 and 0.33 million parameters in `.encoder`, which
        holds only what runs; "resnet34": uncut, 21.3 million.
    weights: None, random; "imagenet", from `DLILIB_WEIGHTS`/<encoder>.safetensors if it exists, else the model hub.
    seed: of the random part. Raises ValueError or WeightsError, which says how to go on.
    """
    if encoder not in ENCODERS:
        raise ValueError(f"encoder must be one of {tuple(ENCODERS)}, got {encoder!r}")
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    if weights not in (None, "imagenet"):
        raise ValueError(f'weights must be None or "imagenet", got {weights!r}')
    import segmentation_models_pytorch as smp  # here, as elsewhere: it takes seconds, which the transform is spared

    with SEEDED, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reseed CUDA
        channels = WHOLE_CHANNELS if encoder in WHOLE else DECODER_CHANNELS
        model = smp.Unet(
            ENCODERS[encoder], encoder_depth=len(channels), encoder_weights=None, decoder_channels=channels,
            classes=num_classes,
        )
    for name in UNUSED.get(encoder, ()):
        delattr(model.encoder, name)
    if weights:
        _load(model.encoder, encoder)
    return model


def load(path: str | Path, encoder: str, num_classes: int) -> nn.Module:
    """A trained model, ready to predict, from the safetensors file that `fit(..., keep_model=True)` wrote.

    Raises WeightsError where the file is none of such a model.
    """
    model = build(encoder, num_classes)
    _fill(model, _read(path), path, encoder)
    return model.eval()


def normalised(images: Tensor) -> Tensor:
    """What the models take, (B, 3, H, W), of images (B, C, H, W) in [0, 1], grey or RGB."""
    return ((images - MEAN) / STD).expand(-1, 3, -1, -1)


def features(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """The encoder's features at stride 8, (B, D, H / 8, W / 8), and the logits of images (B, 3, H, W)."""
    stages = model.encoder(images)
    return stages[DEPTH], model.segmentation_head(model.decoder(stages))


def stride(encoder: str) -> int:
    """What the sides of an image must be divisible by."""
    return 2 ** (len(WHOLE_CHANNELS) if encoder in WHOLE else DEPTH)


def parameters(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())


def memory_format(encoder: str, device: torch.device) -> torch.memory_format:
    """The faster tensor layout that is safe for this encoder on this device."""
    fast = device.type == "cuda" or encoder in CHANNELS_LAST_ON_CPU
    return torch.channels_last if fast else torch.contiguous_format


class WeightsError(RuntimeError):
    """ImageNet weights that cannot be had or do not fit."""


def _load(module: nn.Module, encoder: str) -> None:
    path = Path(os.environ.get("DLILIB_WEIGHTS") or "$DLILIB_WEIGHTS") / f"{encoder}.safetensors"
    state, place = (_read(path), path) if path.exists() else (_read(_from_hub(encoder, path)), HUB[encoder][0])
    wanted = module.state_dict()
    counters = {name: tensor for name, tensor in wanted.items() if name.endswith("num_batches_tracked")}
    state = counters | state  # torchvision's own files lack them
    found = {name: state.get(name.removeprefix("model."), state.get(name)) for name in wanted}  # "model.": timm's
    _fill(module, found, place, encoder)


def _fill(module: nn.Module, state: dict[str, Tensor | None], place: str | Path, encoder: str) -> None:
    wanted = module.state_dict()
    for name, value in wanted.items():
        if (tensor := state.get(name)) is None or tensor.shape != value.shape:
            what = "missing" if tensor is None else f"{tuple(tensor.shape)}, not {tuple(value.shape)}"
            raise WeightsError(f"{place}: {name} of {encoder} is {what}")
        if tensor.is_floating_point() != value.is_floating_point() or not tensor.isfinite().all():
            raise WeightsError(f"{place}: {name} of {encoder} holds {tensor.dtype} that are no weights, or not finite")
    module.load_state_dict({name: state[name] for name in wanted})


def _read(path: str | Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:
        raise WeightsError(f"{path}: not a readable safetensors file: {error}") from None


def _from_hub(encoder: str, path: Path) -> str:
    repository, revision = HUB[encoder]
    try:
        return hf_hub_download(repository, "model.safetensors", revision=revision)
    except Exception as error:
        raise WeightsError(
            f"no ImageNet weights for {encoder}: {path} does not exist and {repository} could not be had from the hub "
            f"({type(error).__name__}). Go on with weights=None, or put the weights there."
        ) from None
