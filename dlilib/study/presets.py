"""The sizes at which the study runs, and the variants that its few-shot part compares."""

from dataclasses import dataclass, replace
from typing import Any

from dlilib.training.run import Run

PAPER_ENCODERS = ("resnet18", "mobileone_s1", "resnest50d")  # those of its Tables 1 and 2
NBR = 0.1  # weight of the normal background regularisation in the study; not tuned
PASTED = {"method": "dli", "p_poisson": 0.0}
# Variant -> the fields of Run that make it; all but "plain" and "DLI" are our interpretation.
FEW_SHOT: dict[str, dict[str, Any]] = {
    "plain": {"method": "baseline"},
    "NBR": {"method": "baseline", "nbr": NBR},
    "crop-and-paste": PASTED,
    "crop-and-paste, weighted BCE": PASTED | {"similarity": True},
    "crop-and-paste, NBR": PASTED | {"nbr": NBR},
    "crop-and-paste, weighted BCE, NBR": PASTED | {"similarity": True, "nbr": NBR},
    "DLI": {"method": "dli"},
    "DLI, NBR": {"method": "dli", "nbr": NBR},
}

# One stage after the other, each a whole seed before the next: (experiment, split) pairs, whose
# experiments are those of `experiments.EXPERIMENTS`.
Stages = tuple[tuple[tuple[str, str], ...], ...]
COMPARISON = (("comparison", "image"), ("comparison", "tile"))
ABLATION = (("ablation", "image"), ("ablation", "tile"))
FEW_SHOT_STAGE = (("few_shot", "tile"),)
SECOND_ENCODER = (("second_encoder", "image"), ("second_encoder", "tile"))
PAPER_STAGES: Stages = (
    COMPARISON,
    ABLATION,
    (("weakly_supervised", "image"),),
    (("audits", "image"),),
    (("corrected", "tile"),),
    (("half_data", "tile"),),
    FEW_SHOT_STAGE,
)
LITE_STAGES: Stages = (
    COMPARISON,
    ABLATION,
    (("half_data", "image"), ("half_data", "tile")),
    (("corrected", "image"), ("corrected", "tile")),
    (("choices", "image"),),
    FEW_SHOT_STAGE,
    SECOND_ENCODER,
)
SMOKE_STAGES: Stages = (
    (("comparison", "image"),),
    (("ablation", "image"),),
    (("weakly_supervised", "image"),),
    FEW_SHOT_STAGE,
)


@dataclass(frozen=True)
class Preset:
    """A size at which the whole study runs."""

    about: str  # what it is for and what it costs
    base: Run  # every run is this one with some fields changed
    stages: Stages = PAPER_STAGES  # which runs there are, in their order
    encoders: tuple[str, ...] = PAPER_ENCODERS
    second_encoders: tuple[str, ...] = ()  # further ones, which only the comparison trains
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    fractions: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 1.0)  # of the weakly supervised runs
    fraction_encoder: str = "mobileone_s1"  # their encoder, the paper's
    shots: tuple[int, ...] = (1, 5)  # of the few-shot runs
    few_shot: tuple[tuple[str, Any], ...] = ()  # what these change of the base
    few_shot_variants: tuple[str, ...] = tuple(FEW_SHOT)
    few_shot_encoders: tuple[str, ...] = ("resnet18", "resnet34")  # the second: the paper's
    few_shot_seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    pilot: tuple[Run, ...] = ()  # the runs by which its schedule was chosen


ONE_ENCODER = {
    "encoders": ("resnet18",),
    "fraction_encoder": "resnet18",
    "few_shot_encoders": ("resnet18",),
}
SMOKE = Run(data="toy", size=48, weights=None, epochs=10, batch=16, lr=2e-3, free_share=0.2)
PAPER = Run(precision="auto", decoder_convs=4)
LITE = Run(size=128, epochs=160, batch=8, lr=5e-4, free_share=0.2, precision="auto", ties="random")
# At 96 px for a processor without bfloat16 units. Spelt out, so that these runs stay what they
# were if lite changes.
PILOT = Run(size=96, epochs=40, batch=8, lr=1e-3, free_share=0.2, precision="auto", ties="random")

PRESETS = {
    "smoke": Preset(
        "toy tiles, 48 px, random start, 10 epochs: shows that everything runs; about 20 s a run "
        "on 2 cores",
        SMOKE,
        stages=SMOKE_STAGES,
        seeds=(0,),
        fractions=(0.5, 1.0),
        shots=(1,),
        few_shot=(("epochs", 5),),
        few_shot_variants=(
            "plain",
            "NBR",
            "crop-and-paste",
            "crop-and-paste, weighted BCE, NBR",
            "DLI",
        ),
        few_shot_seeds=(0,),
        **ONE_ENCODER,
    ),
    "lite": Preset(
        "Magnetic Tiles, 128 px, ImageNet start, 160 epochs of ≤ 502 images (a fifth of the "
        "defect-free: DLI fills 38 % of an epoch, tile-disjoint 33 %, in the authors' code "
        "75 %) in batches of 8, schedule chosen by DLI's IoU; half their decoder; "
        "a run takes an hour on two cores with units for bfloat16, several without",
        LITE,
        stages=LITE_STAGES,
        seeds=(0, 1, 2),
        second_encoders=("efficientnet_lite0",),
        few_shot_seeds=(0, 1, 2),
        fractions=(0.5, 1.0),
        few_shot=(("epochs", 20), ("free_share", 0.4)),
        pilot=(
            replace(PILOT, batch=16, lr=2e-3),
            PILOT,
            replace(PILOT, lr=5e-4),
            replace(PILOT, epochs=80),
            replace(PILOT, method="baseline"),
            replace(PILOT, split="tile"),
            replace(PILOT, method="baseline", split="tile"),
            replace(PILOT, size=128, lr=5e-4, epochs=80),
            replace(PILOT, size=128, lr=5e-4, epochs=160),  # lite's own
            replace(PILOT, size=128, lr=5e-4, epochs=320),  # would it gain from twice the steps?
            # or from the authors' decoder?
            replace(PILOT, size=128, lr=5e-4, epochs=160, decoder_convs=4),
        ),
        **ONE_ENCODER,
    ),
    "short": Preset(
        "the paper's protocol at 100 epochs instead of 1000: one GPU",
        replace(PAPER, epochs=100),
    ),
    "paper": Preset(
        "the paper's protocol: Magnetic Tiles, 256 px, 1000 epochs",
        PAPER,
    ),
}
