"""The study's U-Nets: light encoders cut after stride 8, a whole ResNet-34, and their weights."""

import json
import os
import threading
from dataclasses import asdict, dataclass, fields
from numbers import Integral
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from torch import Tensor, nn

from dlilib.checks import check_option, check_type, described, is_count
from dlilib.data.files import write_whole
from dlilib.metrics import class_map
from dlilib.patches import check_patch, corners, stitch_weights
from dlilib.tiles import MOST_CLASSES, RESIZES, TileSet, check_classes

WEIGHTS_FILE = "model.safetensors"  # of an encoder's repository on the model hub
DEPTH = 3  # stages of a light encoder, at strides 2, 4 and 8
MEAN, STD = 0.4319, 0.1196  # of the Magnetic Tiles in [0, 1], as released, for every channel
LIGHT_DECODER = (128, 64, 32)  # output channels of the decoder's stages
WHOLE_DECODER = (256, 128, 64, 32, 16)
DECODER_CONVS = (2, 4)  # in each block of the decoder: the library's U-Net, the authors'
FOURTH = "decoder.blocks.0.conv2.6.weight"  # of the state dict of a model with four
HEAD = "segmentation_head.0.bias"  # of a model's state dict, one number a class
SEEDED = threading.Lock()  # builds draw from torch's generator, which the whole process shares


@dataclass(frozen=True)
class Encoder:
    """All facts about one encoder."""

    name: str  #: in segmentation-models-pytorch, taken from timm with "tu-"
    repository: str  #: of its ImageNet weights (safetensors) on the model hub
    revision: str  #: of that repository
    decoder: tuple[int, ...] = LIGHT_DECODER  #: channels, one a stage of the encoder
    unused: tuple[str, ...] = ()  #: modules below the cut, which are removed
    channels_last_on_cpu: bool = False  #: whether this layout is safe and faster on the CPU

    @property
    def light(self) -> bool:
        """Whether the encoder is cut after stride 8; the others keep all their stages."""
        return self.decoder == LIGHT_DECODER

    @property
    def stride(self) -> int:
        """What the sides of an image must be divisible by."""
        return 2 ** len(self.decoder)


# The study runs them in this order: ResNet-18 first, then the others, the cheapest first.
ENCODERS = {
    "resnet18": Encoder(
        "resnet18",
        "smp-hub/resnet18.imagenet",
        "3f2325ff978283d47aa6a1d6878ca20565622683",
        unused=("layer3", "layer4"),
        channels_last_on_cpu=True,  # a third faster or more
    ),
    "efficientnet_lite0": Encoder(  # of another family than the paper's
        "tu-tf_efficientnet_lite0",
        "smp-hub/timm-tf_efficientnet_lite0.imagenet",
        "f5729249af07e5d923fb8b16922256ce2865d108",
        unused=("model.blocks.3", "model.blocks.4", "model.blocks.5", "model.blocks.6"),
        channels_last_on_cpu=True,  # a tenth faster
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


@dataclass(frozen=True)
class TrainedOn:
    """The images that a model was trained on: what `predict` has to do with others.

    Raises:
        ValueError: A value is none of the below; the message names it.

    Example:
        >>> kind = TrainedOn(("dent", "stain"), channels=1, size=(256, 256), resize="bilinear")
    """

    classes: tuple[str, ...]  #: (K,) names of the classes 1..K
    channels: int  #: 1 for grey, 3 for RGB
    #: height and width that they were resized to; None where they kept theirs or are patches
    size: tuple[int, int] | None
    resize: str  #: how, "nearest" or "bilinear", or "pad" for not at all

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", check_classes(self.classes))
        check_option("channels", self.channels, (1, 3))
        check_option("resize", self.resize, (*RESIZES, "pad"))
        if (self.size is None) != (self.resize == "pad"):
            raise ValueError(f'size must be None with resize="pad" alone, got {self.size!r}')
        if self.size is not None:
            object.__setattr__(self, "size", _as_sides(self.size))

    @classmethod
    def of(cls, tiles: TileSet) -> "TrainedOn":
        """Tell it of a set of tiles; ValueError if `tiles` is none."""
        check_type("tiles", tiles, TileSet)
        _, channels, *sides = tiles.images.shape
        size = None if tiles.resize == "pad" else tuple(sides)
        return cls(tiles.classes, channels, size, tiles.resize)

    def as_text(self) -> dict[str, str]:
        """Return the values by their names, each as JSON, as model files hold them."""
        return {name: json.dumps(value) for name, value in asdict(self).items()}


def build(
    encoder: str,
    num_classes: int = 5,
    weights: str | None = None,
    *,
    seed: int = 0,
    decoder_convs: int = 2,
) -> nn.Module:
    """Build a U-Net from images (B, C, H, W) in [0, 1] to logits (B, num_classes, H, W).

    C is 1 or 3. H and W must be divisible by the encoder's stride: 8, or 32 for "resnet34". The
    model normalises the images by its buffers `mean` and `std`, float (3, 1, 1), which its state
    dict holds. They are those of the Magnetic Tiles, 0.4319 and 0.1196. With other data, set them
    as `fit` does: `model.mean, model.std = measured(tiles.images, train)`.

    Args:
        encoder: A key of `ENCODERS`. "resnet18", "efficientnet_lite0", "mobileone_s1" and
            "resnest50d" are cut after stride 8 (0.68, 0.06, 0.33 and 1.58 million parameters);
            "resnet34" is whole (21.3 million).
        num_classes: Number of defect classes; the background is none of them.
        weights: None for random ones; "imagenet" for those in
            `DLILIB_WEIGHTS`/<encoder>.safetensors if it exists, else from the model hub.
        seed: Seed of the random weights.
        decoder_convs: 3×3 convolutions, each with batch normalisation, in a block of the decoder: 2
            as in segmentation-models-pytorch, or 4 as in the authors' code.

    Returns:
        The model, on the CPU, in training mode. `.encoder` holds only the stages that run. What
        takes it apart, as `features`, has to call its `normalised` itself. `.trained_on` is None:
        set it to a `TrainedOn` before `save`, as `fit` does, so that the file tells it.

    Raises:
        ValueError: An argument is none of the above.
        WeightsError: The ImageNet weights cannot be had or do not fit; the message says what to do.

    Example:
        >>> model = build("resnet18", num_classes=5)
        >>> model(torch.zeros(1, 1, 64, 64)).shape
        torch.Size([1, 5, 64, 64])
    """
    check_option("encoder", encoder, tuple(ENCODERS))
    check_option("decoder_convs", decoder_convs, DECODER_CONVS)
    if not is_count(num_classes) or num_classes > MOST_CLASSES:
        raise ValueError(f"num_classes must lie in 1..{MOST_CLASSES}, got {num_classes!r}")
    if not isinstance(seed, Integral):
        raise ValueError(f"seed must be an integer, got {seed!r}")
    if weights not in (None, "imagenet"):
        raise ValueError(f'weights must be None or "imagenet", got {weights!r}')
    from dlilib.unet import Unet

    facts = ENCODERS[encoder]
    with SEEDED, torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(int(seed))  # torch.manual_seed would also reseed CUDA
        model = Unet(
            facts.name,
            encoder_depth=len(facts.decoder),
            encoder_weights=None,
            decoder_channels=facts.decoder,
            classes=num_classes,
        )
        model.deepen(decoder_convs)
    for name in facts.unused:
        parent, _, child = name.rpartition(".")
        delattr(model.encoder.get_submodule(parent), child)
    if weights:
        _load_imagenet(model.encoder, encoder)
    model.register_buffer("mean", torch.full((3, 1, 1), MEAN, device="cpu"))
    model.register_buffer("std", torch.full((3, 1, 1), STD, device="cpu"))
    model.stride = facts.stride
    model.encoder_name = encoder
    model.trained_on = None
    return model


def save(model: nn.Module, path: str | Path) -> Path:
    """Write a model to one safetensors file, all that `load` needs.

    It holds the model's tensors under their names in the state dict, and as metadata, in JSON, the
    encoder and what `model.trained_on` tells.

    Args:
        model: A model as `build` or `load` gives it, also one that torch.compile has wrapped.
        path: The file to write.

    Returns:
        `path`.

    Raises:
        ValueError: The model is none of these, or `trained_on` has another number of classes.
        WriteError: The file cannot be written.

    Example:
        >>> model = build("resnet18", num_classes=5)
        >>> again = load(save(model, "model.safetensors"))
    """
    check_model(model, "encoder_name", "trained_on")
    model = getattr(model, "_orig_mod", model)  # what torch.compile has wrapped
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    metadata = {"encoder": json.dumps(model.encoder_name)}
    if model.trained_on is not None:
        check_type("model.trained_on", model.trained_on, TrainedOn)
        if len(model.trained_on.classes) != len(state[HEAD]):
            raise ValueError(
                f"model.trained_on names the classes {model.trained_on.classes}, the model has "
                f"{len(state[HEAD])}"
            )
        metadata |= model.trained_on.as_text()
    path = Path(path)
    write_whole(path, safetensors.torch.save(state, metadata))
    return path


def load(path: str | Path, encoder: str | None = None, num_classes: int | None = None) -> nn.Module:
    """Load a trained model, ready to predict.

    Args:
        path: The safetensors file that `save` or `fit(..., keep_model=True)` wrote.
        encoder: The model's encoder, a key of `ENCODERS`. None: as the file tells; files of early
            versions do not.
        num_classes: Number of the model's defect classes. None: as many as the file has.

    Returns:
        The model, on the CPU, in evaluation mode. Its `.trained_on` is the `TrainedOn` that the
        file tells, or None.

    Raises:
        WeightsError: The file does not hold such a model.
    """
    state, metadata = _read(path)
    told, trained_on = _told(metadata, path)
    if encoder is None and told is None:
        raise WeightsError(f"{path}: does not tell its encoder: give one of {tuple(ENCODERS)}")
    if None not in (encoder, told) and encoder != told:
        raise WeightsError(f"{path}: holds a model of {told}, not of {encoder}")
    if num_classes is None:
        shown = state[HEAD].numel() if HEAD in state else 0
        num_classes = min(max(shown, 1), MOST_CLASSES)  # what no model has is refused below
    model = build(encoder or told, num_classes, decoder_convs=4 if FOURTH in state else 2)
    _fill(model, with_normalisation(state), path, model.encoder_name)
    if trained_on is not None and len(trained_on.classes) != num_classes:
        raise WeightsError(
            f"{path}: its metadata name the classes {trained_on.classes}, the model has "
            f"{num_classes}"
        )
    model.trained_on = trained_on
    return model.eval()


def with_normalisation(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add to an earlier version's state dict the mean and deviation that it was trained with."""
    released = {"mean": torch.full((3, 1, 1), MEAN), "std": torch.full((3, 1, 1), STD)}
    return {**released, **state}


@torch.no_grad()
def predict(
    model: nn.Module,
    images: Tensor,
    size: int | tuple[int, int] | None = None,
    *,
    resize: str | None = None,
    batch: int = 16,
    tile: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Predict the defects of images of any size.

    Large images with small defects are best predicted as the model was trained: on patches of their
    own resolution. `tile` cuts them and stitches what is predicted. Where patches overlap, the
    logits are averaged, not the probabilities: a mean of logits is again a logit, so that class
    maps and scores agree and a score near 0 or 1 keeps its precision. Each patch counts less
    towards its edge, where the model sees the least around a pixel.

    Args:
        model: A model as `load` or `build` gives it. It predicts in evaluation mode; every part of
            it is left in the mode it was in.
        images: (B, C, H, W), grey or RGB: float in [0, 1], or uint8. They are moved to the model's
            device.
        size: Side, or height and width, that the images are resized to for the model, such as
            `model.trained_on.size`; None: their own. Sides that the encoder cannot take are padded
            by the last row and column.
        resize: How they are resized, needed with `size`: as the training images were,
            `model.trained_on.resize`, since a model trained on one way finds less on the other.
            "bilinear" (smoothed first where it shrinks, as Pillow does) or "nearest". "pad", where
            they kept their size: `size` must be None. Without `size` it does nothing.
        batch: How many images, or patches of one image, go through the model at once. The scores of
            all images are kept on its device.
        tile: Side of the patches, a multiple of 8, and by how many pixels neighbours overlap at
            least, such as (512, 64); None: images are predicted whole. Patches keep the image's
            resolution, so `size` must be None. Images smaller than a patch are padded by the last
            row and column.

    Returns:
        Class maps uint8 (B, H, W), 0 where no class is likelier than not, and scores float32
        (B, K, H, W), the probability of each class, both at the images' own size.

    Raises:
        ValueError: An argument is none of the above, or both `size` and `tile` are given.

    Example:
        >>> class_maps, scores = predict(build("resnet18"), torch.rand(2, 1, 50, 70))
        >>> class_maps.shape, scores.shape
        (torch.Size([2, 50, 70]), torch.Size([2, 5, 50, 70]))
        >>> large = torch.rand(1, 1, 150, 200)
        >>> class_maps, scores = predict(build("resnet18"), large, tile=(64, 16))
        >>> class_maps.shape, scores.shape
        (torch.Size([1, 150, 200]), torch.Size([1, 5, 150, 200]))
    """
    check_model(model)
    check_option("resize", resize, (*RESIZES, "pad", None))
    if size is not None and resize == "pad":
        raise ValueError(f'size must be None with resize="pad", got {size!r}')
    if not is_count(batch):
        raise ValueError(f"batch must be a number of images, got {batch!r}")
    _check_images(images)
    if size is not None and tile is not None:
        raise ValueError(
            f"size and tile cannot be given together, got size={size!r} and tile={tile!r}"
        )
    sides = None if size is None else _as_sides(size)
    if sides is not None and resize is None:
        raise ValueError("resize must be given with size: TileSet.resize of the training images")
    patch = None if tile is None else check_patch(tile)
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        if patch is None or not len(images):
            found = [_logits(model, part, sides, resize) for part in images.split(int(batch))]
        else:
            found = [_stitched(model, image, patch, int(batch)) for image in images]
    finally:
        for module, training in modes:
            module.training = training
    logits = torch.cat(found)
    return class_map(logits), logits.sigmoid_()


def check_model(model: nn.Module, *attributes: str) -> None:
    """Raise ValueError unless it is a model as `build` makes it, with these attributes too."""
    made = all(hasattr(model, name) for name in ("mean", "stride", *attributes))
    if not isinstance(model, nn.Module) or not made:
        raise ValueError(f"model must be one of models.load or build, got {described(model)}")


def _logits(
    model: nn.Module,
    images: Tensor,
    sides: tuple[int, int] | None = None,
    resize: str | None = None,
) -> Tensor:
    """float32 logits (B, K, H, W) of images of any size.

    sides: what they are resized to, in the way that `resize` says.
    """
    height, width = images.shape[2:]
    pixels = images.to(model.mean.device, torch.float32)
    if images.dtype == torch.uint8:
        pixels = pixels / 255
    if sides is not None:
        pixels = _resized(pixels, sides, resize)
    below, right = (-side % model.stride for side in pixels.shape[2:])
    padded = F.pad(pixels, (0, right, 0, below), mode="replicate").to(model.mean.dtype)
    logits = model(padded)[..., : pixels.shape[2], : pixels.shape[3]].float()
    if sides is not None:
        logits = F.interpolate(logits, (height, width), mode="bilinear")
    return logits


def _resized(pixels: Tensor, sides: tuple[int, int], resize: str) -> Tensor:
    """Images (B, C, H, W) at another height and width, as `from_folder` resizes them."""
    if resize == "bilinear":
        return F.interpolate(pixels, sides, mode="bilinear", antialias=True)
    # OpenCV's rule, by which data sets are read; that of torch rounds otherwise
    for axis, side in enumerate(sides, start=2):
        length = pixels.shape[axis]
        steps = torch.arange(side, dtype=torch.float64, device="cpu") * (1 / (side / length))
        nearest = steps.floor().long().clamp(max=length - 1)
        pixels = pixels.index_select(axis, nearest.to(pixels.device))
    return pixels


def _stitched(model: nn.Module, image: Tensor, tile: tuple[int, int], batch: int) -> Tensor:
    """float32 logits (1, K, H, W) of an image (C, H, W), predicted in patches: (size, overlap)."""
    size, overlap = tile
    height, width = image.shape[1:]
    places = corners(height, width, size, overlap).tolist()
    shares = torch.from_numpy(stitch_weights(height, width, size, overlap)).to(model.mean.device)
    total = None
    for start in range(0, len(places), batch):
        part = slice(start, start + batch)
        cut = torch.stack([_cut(image, row, column, size) for row, column in places[part]])
        logits = _logits(model, cut)  # (P, K, size, size)
        if total is None:
            total = logits.new_zeros(logits.shape[1], height, width)
        for place, share, found in zip(places[part], shares[part], logits, strict=True):
            row, column = place
            of_rows, of_columns = share  # (size,) each
            inside = total[:, row : row + size, column : column + size]  # ends with the image
            weighted = found * of_rows[:, None] * of_columns
            inside += weighted[:, : inside.shape[1], : inside.shape[2]]
    return total[None]


def _cut(image: Tensor, row: int, column: int, size: int) -> Tensor:
    """A patch (C, size, size) of an image (C, H, W), padded by the last row and column."""
    steps = torch.arange(size, device=image.device)
    rows = (row + steps).clamp(max=image.shape[1] - 1)
    columns = (column + steps).clamp(max=image.shape[2] - 1)
    return image[:, rows[:, None], columns]


def _check_images(images: Tensor) -> None:
    right = isinstance(images, Tensor) and images.ndim == 4 and images.shape[1] in (1, 3)
    if not right or not (images.is_floating_point() or images.dtype == torch.uint8):
        raise ValueError(
            "images must be (B, C, H, W), C 1 or 3, float in [0, 1] or uint8, got "
            f"{described(images)}"
        )
    if not images.numel() or images.dtype == torch.uint8:
        return
    low, top = float(images.min()), float(images.max())
    if not 0 <= low <= top <= 1:
        raise ValueError(
            f"float images must lie in [0, 1], the model normalises them itself; got {low}..{top}"
        )


def _as_sides(size: int | tuple[int, int]) -> tuple[int, int]:
    sides = (size, size) if is_count(size) else size
    if not isinstance(sides, tuple | list) or len(sides) != 2 or not all(map(is_count, sides)):
        raise ValueError(f"size must be a side, or height and width, in pixels, got {size!r}")
    return int(sides[0]), int(sides[1])


def measured(images: Tensor, rows: np.ndarray | Tensor) -> tuple[Tensor, Tensor]:
    """Measure what a model shall normalise by: mean and standard deviation of images in [0, 1].

    Args:
        images: uint8 (N, C, H, W).
        rows: Indices of those to measure.

    Returns:
        Mean and deviation, float32 (3, 1, 1) each, on the CPU, alike for grey images; a channel of
        one value counts as one grey level wide.
    """
    total = total_of_squares = 0
    chosen = torch.as_tensor(rows, device=images.device)
    for part in chosen.split(64):  # little memory beside the data
        pixels = images[part].double() / 255
        total = total + pixels.sum(dim=(0, 2, 3))
        total_of_squares = total_of_squares + pixels.square().sum(dim=(0, 2, 3))
    pixels_a_channel = len(chosen) * images[0, 0].numel()
    mean = total / pixels_a_channel
    variance = (total_of_squares / pixels_a_channel - mean.square()).clamp(min=255.0**-2)
    return tuple(
        value.float().cpu().expand(3)[:, None, None].clone() for value in (mean, variance.sqrt())
    )


def features(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Run a model on images (B, 3, H, W), as its `normalised` gives them.

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


def has_weights(encoder: str) -> bool:
    """Tell whether an encoder's ImageNet weights are on this machine, so that none are fetched."""
    facts = ENCODERS[encoder]
    cached = try_to_load_from_cache(facts.repository, WEIGHTS_FILE, revision=facts.revision)
    path = _weights_path(encoder)
    return isinstance(cached, str) or (path is not None and path.exists())


def _weights_path(encoder: str) -> Path | None:
    """Where DLILIB_WEIGHTS has an encoder's weights; None: it is not set."""
    folder = os.environ.get("DLILIB_WEIGHTS")
    return Path(folder, f"{encoder}.safetensors") if folder else None


def _load_imagenet(module: nn.Module, encoder: str) -> None:
    path = _weights_path(encoder)
    local = path is not None and path.exists()
    state, _ = _read(path if local else _from_hub(encoder, path))
    place = path if local else ENCODERS[encoder].repository
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


def _told(metadata: dict[str, str], path: str | Path) -> tuple[str | None, TrainedOn | None]:
    """The encoder and the images that a model's file tells of; None for what it does not tell."""
    names = ("encoder", *(field.name for field in fields(TrainedOn)))
    try:
        values = {name: json.loads(metadata[name]) for name in names if name in metadata}
        encoder = values.pop("encoder", None)
        check_option("encoder", encoder, (*ENCODERS, None))
        return encoder, TrainedOn(**values) if values else None
    except (ValueError, TypeError, RecursionError) as error:
        raise WeightsError(f"{path}: its metadata are no model's: {error}") from None


def _read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = file.keys()  # it cannot be iterated itself
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except Exception as error:
        raise WeightsError(f"{path}: not a readable safetensors file: {error}") from None


def _from_hub(encoder: str, path: Path | None) -> str:
    facts = ENCODERS[encoder]
    try:
        return hf_hub_download(facts.repository, WEIGHTS_FILE, revision=facts.revision)
    except Exception as error:
        local = "DLILIB_WEIGHTS is not set" if path is None else f"{path} does not exist"
        raise WeightsError(
            f"no ImageNet weights for {encoder}: {local} and {facts.repository} could not be had "
            f"from the hub ({type(error).__name__}). Go on with weights=None, or put them as "
            f"{encoder}.safetensors into the folder that DLILIB_WEIGHTS names."
        ) from None
