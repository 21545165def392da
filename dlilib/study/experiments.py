"""Which runs the study has: those of each experiment at each preset, in their order."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dlilib.losses import METHODS
from dlilib.models import ENCODERS
from dlilib.study.presets import FEW_SHOT, PRESETS, Preset
from dlilib.training.run import Run

AUDITED = ("dli", "baseline")  # the methods that audits of one change compare

Changes = dict[str, Any]  # fields of Run in which a run differs from the preset's base


@dataclass(frozen=True)
class Selection:
    """What is varied inside an experiment."""

    fractions: tuple[float, ...]  # of the training data
    shots: tuple[int, ...]  # annotated images a class
    variants: tuple[str, ...]  # keys of `FEW_SHOT`


@dataclass(frozen=True)
class Experiment:
    """One experiment: its runs at a preset are every seed × encoder × case."""

    cases: Callable[[Preset, Selection], list[Changes]]
    encoders: Callable[[Preset], tuple[str, ...]] = lambda preset: preset.encoders
    seeds: Callable[[Preset], tuple[int, ...]] = lambda preset: preset.seeds
    split: str | None = None  # the only one it has, if so


def comparison(preset: Preset, selection: Selection) -> list[Changes]:
    """Every method (Table 1, Figure 3)."""
    return [{"method": method} for method in METHODS]


def ablation(preset: Preset, selection: Selection) -> list[Changes]:
    """DLI by cut-paste, by Poisson blending and by both (Table 2)."""
    return [{"p_poisson": share} for share in (0.0, 1.0, 0.5)]


def weakly_supervised(preset: Preset, selection: Selection) -> list[Changes]:
    """DLI and the weighted cross-entropy on fractions of the training data (Figure 5)."""
    fractions = sorted(selection.fractions, reverse=True)
    return [{"fraction": f, "method": method} for f in fractions for method in ("dli", "wce")]


def half_data(preset: Preset, selection: Selection) -> list[Changes]:
    """DLI and the weighted cross-entropy at half the training data."""
    return weakly_supervised(preset, replace(selection, fractions=(0.5,)))


def choices(preset: Preset, selection: Selection) -> list[Changes]:
    """DLI with the other option of each choice that it leaves open."""
    return [{"until": "uniform"}, {"region": "mask"}, {"guidance": "donor"}, {"label": "tight"}]


def audits(preset: Preset, selection: Selection) -> list[Changes]:
    """One thing changed at a time: the losses as published, the validation, the masks, DLI."""
    published = [{"method": name, **_published(name)} for name in METHODS if METHODS[name].varies]
    free_in_val = [{"method": name, "free_in_val": True} for name in AUDITED]
    solid_masks = [{"method": name, "threshold": 127} for name in AUDITED]
    return [*published, *free_in_val, *solid_masks, *choices(preset, selection)]


def corrected(preset: Preset, selection: Selection) -> list[Changes]:
    """Every method with its loss as published, and defect-free images in validation."""
    return [{"method": name, "free_in_val": True, **_published(name)} for name in METHODS]


def few_shot(preset: Preset, selection: Selection) -> list[Changes]:
    """The variants of `FEW_SHOT` with a few annotated images a class."""
    return [
        {**dict(preset.few_shot), "shots": shots, **FEW_SHOT[variant]}
        for shots in selection.shots
        for variant in selection.variants
    ]


def _published(method: str) -> Changes:
    return {"losses": "published"} if METHODS[method].varies else {}


def _fraction_encoder(preset: Preset) -> tuple[str, ...]:
    return (preset.fraction_encoder,)


def _second_encoders(preset: Preset) -> tuple[str, ...]:
    return preset.second_encoders


EXPERIMENTS = {
    "comparison": Experiment(comparison),
    "ablation": Experiment(ablation),
    "weakly_supervised": Experiment(weakly_supervised, encoders=_fraction_encoder),
    "half_data": Experiment(half_data, encoders=_fraction_encoder),
    "choices": Experiment(choices),
    "audits": Experiment(audits),
    "corrected": Experiment(corrected),
    "few_shot": Experiment(
        few_shot,
        encoders=lambda preset: preset.few_shot_encoders,
        seeds=lambda preset: preset.few_shot_seeds,
        split="tile",
    ),
    "second_encoder": Experiment(comparison, encoders=_second_encoders),
}


def preset_named(name: str) -> Preset:
    """Return the preset, or raise a ValueError that lists them."""
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {tuple(PRESETS)}, got {name!r}")
    return PRESETS[name]


def results_folder(preset: str, results: str | Path = "results") -> Path:
    """Where a preset keeps its records, checkpoints, tables, figures and executed notebooks."""
    preset_named(preset)  # it exists
    return Path(results) / preset


def pilot(preset: str) -> list[Run]:
    """The runs by which the preset's schedule was chosen."""
    return list(preset_named(preset).pilot)


def experiment(
    name: str,
    preset: str,
    encoders: Sequence[str] = (),
    *,
    seeds: Sequence[int] = (),
    split: str = "image",
    fractions: Sequence[float] = (),
    shots: Sequence[int] = (),
    variants: Sequence[str] = (),
    data: str = "",
) -> list[Run]:
    """Return the runs of one experiment at a preset.

    Args:
        name: A key of `EXPERIMENTS`.
        preset: A key of `PRESETS`.
        encoders: Instead of the experiment's own at this preset.
        seeds: Instead of the experiment's own at this preset.
        split: "image" or "tile"; "few_shot" is always split by tile.
        fractions: Shares of the training data, instead of the preset's.
        shots: Numbers of annotated images a class, instead of the preset's.
        variants: Keys of `FEW_SHOT`, instead of the preset's.
        data: Instead of the preset's data set, such as "mvtec_ad-bottle".

    Raises:
        ValueError: The experiment or preset is unknown, or a number of shots is below 1.

    Example:
        >>> [run.method for run in experiment("comparison", "lite", seeds=[0])]
        ['baseline', 'focal', 'balanced', 'wce', 'dli']
    """
    p = preset_named(preset)
    if name not in EXPERIMENTS:
        raise ValueError(f"experiment must be one of {tuple(EXPERIMENTS)}, got {name!r}")
    if min(shots, default=1) < 1:
        raise ValueError(f"shots must be 1 or more, got {list(shots)}")
    chosen = EXPERIMENTS[name]
    selection = Selection(
        fractions=tuple(fractions or p.fractions),
        shots=tuple(shots or p.shots),
        variants=tuple(variants or p.few_shot_variants),
    )
    cases = chosen.cases(p, selection)
    base = replace(p.base, split=chosen.split or split, data=data or p.base.data)
    runs = []
    for seed in seeds or chosen.seeds(p):
        for encoder in encoders or chosen.encoders(p):
            runs += [replace(base, seed=seed, encoder=encoder, **case) for case in cases]
    return runs


def all_runs(preset: str, match: str = "") -> list[Run]:
    """Return every run of a preset once; what is finished at any moment is the most useful part.

    The encoders follow each other in the order of `ENCODERS`; for each come the preset's stages;
    for each stage a whole seed, on both splits, before the next one. The pilot's runs are not among
    them.

    Args:
        preset: A key of `PRESETS`.
        match: As in `matching`, for example "dli fraction=0.5".
    """
    runs = [run for stage in preset_named(preset).stages for run in _stage(preset, stage)]
    order = list(ENCODERS)
    runs = sorted(dict.fromkeys(runs), key=lambda run: order.index(run.encoder))
    return matching(runs, match)


def matching(runs: Iterable[Run], match: str) -> list[Run]:
    """Return the runs that have every word of `match` in their id or among their fields."""
    words, found = match.split(), []
    for run in runs:
        text = " ".join([run.id, *(f"{name}={value}" for name, value in asdict(run).items())])
        if all(word in text for word in words):
            found.append(run)
    return found


def _stage(preset: str, stage: Sequence[tuple[str, str]]) -> list[Run]:
    """The runs of a stage's experiments, a whole seed before the next."""
    runs = [run for name, split in stage for run in experiment(name, preset, split=split)]
    return sorted(runs, key=lambda run: run.seed)
