import json
from dataclasses import asdict, replace

import pandas as pd
import pytest
import torch
from builders import TINY, refused

import dlilib
from dlilib.analysis.records import select
from dlilib.models import LIGHT_ENCODERS
from dlilib.study import experiments, presets, sweep
from dlilib.study.estimate import estimate_seconds
from dlilib.training.run import Run
from dlilib.training.store import Store


def test_few_shot_without_shots_is_refused():
    with pytest.raises(ValueError, match=r"shots must be 1 or more, got \[1, 0\]"):
        experiments.experiment("few_shot", "lite", shots=[1, 0])


@pytest.mark.parametrize("preset", presets.PRESETS)
def test_few_shot_compares_each_part_and_comes_last_of_its_encoder(preset):
    p, runs = presets.PRESETS[preset], experiments.all_runs(preset)
    few = experiments.experiment("few_shot", preset)
    assert len(few) == len(p.few_shot_variants) * len(p.shots) * len(p.few_shot_encoders) * len(
        p.few_shot_seeds
    )
    assert set(p.few_shot_variants) <= set(presets.FEW_SHOT)
    assert {run.split for run in few} == {"tile"} and {run.shots for run in few} == set(p.shots)
    for encoder in p.few_shot_encoders:
        own = [run.shots > 0 for run in runs if run.encoder == encoder]
        assert own == sorted(own)


@pytest.mark.parametrize("preset", presets.PRESETS)
def test_grid_is_the_papers(preset):
    p = presets.PRESETS[preset]
    assert len(experiments.experiment("comparison", preset)) == 5 * len(p.encoders) * len(p.seeds)
    assert {run.p_poisson for run in experiments.experiment("ablation", preset)} == {0.0, 0.5, 1.0}
    assert {run.fraction for run in experiments.experiment("weakly_supervised", preset)} == set(
        p.fractions
    )
    runs = experiments.all_runs(preset)
    assert len(set(runs)) == len(runs) == len({run.id for run in runs})
    encoders = [(*LIGHT_ENCODERS, "resnet34").index(run.encoder) for run in runs]
    assert encoders == sorted(encoders)
    # The whole comparison comes first, a seed after the other, on the paper's split and then on
    # the other.
    splits = ["image"] if preset == "smoke" else ["image", "tile"]
    methods = ["baseline", "focal", "balanced", "wce", "dli"]
    first = [
        (run.seed, run.split, run.method)
        for run in runs[: len(methods) * len(splits) * len(p.seeds)]
    ]
    assert first == [
        (seed, split, method) for seed in p.seeds for split in splits for method in methods
    ]
    assert {(run.fraction, run.p_poisson) for run in runs[: len(first)]} == {(1.0, 0.5)}


def test_the_pilot_has_lites_own_run_and_one_twice_as_long():
    base, pilot = presets.PRESETS["lite"].base, experiments.pilot("lite")
    assert {base, replace(base, epochs=2 * base.epochs)} <= set(pilot)


def test_lite_grid_is_as_large_as_planned():
    first, second = (
        [run for run in experiments.all_runs("lite") if run.encoder == encoder]
        for encoder in ("resnet18", "efficientnet_lite0")
    )
    sizes = [
        len([run for run in first if match(run)])
        for match in (
            lambda r: (
                not r.shots
                and r.fraction == 1
                and not r.free_in_val
                and r.p_poisson == 0.5
                and (r.until, r.region, r.guidance, r.label)
                == ("filled", "rectangle", "mixed", "dilated")
            ),
            lambda r: r.p_poisson != 0.5 and not r.shots,
            lambda r: r.fraction == 0.5,
            lambda r: r.free_in_val,
            lambda r: (
                (r.until, r.region, r.guidance, r.label)
                != ("filled", "rectangle", "mixed", "dilated")
            ),
            lambda r: r.shots > 0,
        )
    ]
    assert sizes == [30, 12, 12, 30, 12, 48] and len(first) == sum(sizes)
    assert [replace(run, encoder="efficientnet_lite0") for run in first[:30]] == second
    assert first + second == experiments.all_runs("lite")


def test_paper_preset_is_the_papers_protocol():
    run = presets.PRESETS["paper"].base
    assert (run.size, run.epochs, run.batch, run.lr) == (256, 1000, 64, 5e-4)
    assert (run.split, run.weights, run.p_poisson) == ("image", "imagenet", 0.5)
    assert presets.PRESETS["short"].base == replace(run, epochs=100)


def test_matching_takes_words_of_the_id_and_changed_fields():
    runs = experiments.all_runs("paper", "dli fraction=0.25 seed3")
    assert [(r.method, r.fraction, r.seed) for r in runs] == [("dli", 0.25, 3)]


@pytest.mark.parametrize(
    ("match", "n"),
    [
        ("fraction=1.0 p_poisson=0.5 split=image seed0 resnet18", 15),
        ("dli p_poisson=0.0 resnet18 shots=0", 10),
    ],
)
def test_matching_takes_defaults_too(match, n):
    assert len(experiments.all_runs("paper", match)) == n


def test_unknown_experiment_and_absent_device_are_refused(tmp_path):
    with pytest.raises(ValueError, match="comparison"):
        experiments.experiment("comparision", "smoke")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device cuda: torch sees 0 cuda devices"):
            sweep.execute([], tmp_path, device="cuda")


def test_sweep_stops_at_its_budget_and_goes_on(tmp_path, monkeypatch):
    runs = [replace(TINY, seed=seed, epochs=2) for seed in (0, 1)]
    assert sweep.execute(runs, tmp_path, budget=0, progress=False) == 2
    assert sweep.execute(runs, tmp_path, progress=False) == 0
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "records").iterdir()}
    assert len(written) == 2
    assert sweep.execute(runs, tmp_path, progress=False) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "records").iterdir()} == written
    frame = select(dlilib.records(tmp_path / "records"), runs[::-1])
    assert frame["id"].tolist() == [run.id for run in runs[::-1]]
    assert (frame["iou_best"] >= frame["iou_last"]).all()


def finished(device, seconds, **fields):
    """A row of `dlilib.records`, as far as an estimate asks."""
    run = replace(Run(encoder="resnet18", epochs=10, size=64), **fields)
    used = "fp32" if run.precision == "auto" else run.precision
    return asdict(run) | {"device": device, "seconds": seconds, "precision_used": used}


HERE, ONE_THREAD, OTHER = (
    "CPU x86_64 AVX2, 2 threads",
    "CPU x86_64 AVX2, 1 threads",
    "CPU x86_64 AVX512, 1 threads",
)
FRAME = pd.DataFrame(
    [
        finished(HERE, 100.0),
        finished(HERE, 120.0),
        finished(HERE, 300.0, encoder="resnest50d"),
        finished(ONE_THREAD, 180.0, encoder="mobileone_s1"),
        finished(OTHER, 9.0, precision="bf16"),
        finished(HERE, 1.0, data="toy"),
    ]
)


@pytest.mark.parametrize(
    ("run", "precision", "frame", "seconds", "basis"),
    [
        ({}, "fp32", FRAME, 110, f"runs like it on {HERE}, fp32"),
        ({"epochs": 20, "size": 128}, "fp32", FRAME, 880, f"runs like it on {HERE}, fp32"),
        ({"encoder": "resnet34"}, "fp32", FRAME, 120, f"other encoders' runs on {HERE}, fp32"),
        ({}, "fp32", FRAME[3:], 180, f"other encoders' runs on {ONE_THREAD}, fp32"),
        (
            {},
            "bf16",
            FRAME,
            9,
            f"runs like it on {OTHER}, bf16; none is finished on this kind of machine",
        ),
        (
            {},
            "fp32",
            FRAME[4:],
            9,
            f"runs like it on {OTHER}, bf16; none is finished on this kind of machine",
        ),
    ],
)
def test_estimates_stand_on_runs_of_this_machine_and_precision(
    run, precision, frame, seconds, basis
):
    wanted = replace(Run(encoder="resnet18", epochs=10, size=64, precision="auto"), **run)
    assert estimate_seconds(wanted, frame, HERE, precision) == (pytest.approx(seconds), basis)


def test_without_a_telling_run_there_is_no_estimate():
    assert estimate_seconds(Run(), FRAME[:0], HERE, "fp32") is None
    assert (
        estimate_seconds(Run(), FRAME[:4], HERE, "bf16") is None
    )  # emulated: float32 tells nothing of it
    assert (
        estimate_seconds(Run(), FRAME[5:], HERE, "fp32") is None
    )  # another data set has other images


def test_no_records_give_an_empty_frame_with_its_columns(tmp_path):
    frame = dlilib.records(tmp_path)
    assert len(frame) == 0
    assert {*asdict(Run()), "iou_best", "iou_last", "seconds"} <= set(frame.columns)


def test_record_with_a_foreign_id_is_refused(tmp_path):
    Store(tmp_path).finish(Run(), {"id": "other", "run": asdict(Run())})
    with pytest.raises(ValueError, match="not a record"):
        dlilib.records(tmp_path / "records")


MOMENT = {"epoch": 1, "iou": 0.5, "classes": [[1, 1, 0]], "images": [[1, 1, 0]]}
REST = {
    "best": MOMENT,
    "last": MOMENT,
    "data": {"classes": ["scratch"]},
    "machine": {"device": "CPU"},
    "seconds": 1.0,
    "val_images": [3],
    "val_tiles": [3],
}


def test_records_of_two_data_sets_of_one_name_are_not_pooled(tmp_path):
    runs = [Run(), Run(seed=1), Run(size=128)]
    for run, digest in zip(runs, ("aa", "aa", "bb"), strict=True):  # another size is other data
        kept = {
            "id": run.id,
            "run": asdict(run),
            **REST,
            "data": {"classes": ["scratch"], "digest": digest},
        }
        Store(tmp_path).finish(run, kept)
    assert sorted(dlilib.records(tmp_path)["digest"]) == ["aa", "aa", "bb"]
    other = Run(seed=2)
    Store(tmp_path).finish(other, kept | {"id": other.id, "run": asdict(other)})
    with pytest.raises(ValueError, match="of other data than") as caught:
        dlilib.records(tmp_path)
    assert other.id in str(caught.value)


def test_a_copy_of_a_record_is_no_second_seed(tmp_path):
    store = Store(tmp_path)
    store.finish(Run(), {"id": Run().id, "run": asdict(Run()), **REST})
    path = store.record_path(Run())
    path.with_stem(f"{path.stem} (1)").write_text(path.read_text())
    with pytest.raises(ValueError, match=r"\(1\).json: not a record .it is a copy of"):
        dlilib.records(tmp_path)


@pytest.mark.parametrize("part", ["best", "machine"])
def test_a_record_without_a_part_is_refused(tmp_path, part):
    rest = {key: value for key, value in REST.items() if key != part}
    Store(tmp_path).finish(Run(), {"id": Run().id, "run": asdict(Run()), **rest})
    with pytest.raises(ValueError, match=f"it has no {part}"):
        dlilib.records(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"best": {}},
        {"last": None},
        {"best": {**MOMENT, "classes": []}},
        {"data": {}},
        {"val_images": [3, 4]},
    ],
)
def test_a_hollow_record_is_not_finished(tmp_path, change):
    Store(tmp_path).finish(Run(), {"id": Run().id, "run": asdict(Run()), **REST, **change})
    with pytest.raises(
        ValueError, match=rf"{Run().id}.json: not a record .* delete it to run it again"
    ):
        sweep.pending([Run()], tmp_path)


def test_a_record_from_before_a_field_existed_still_reads(tmp_path):
    store = Store(tmp_path)
    old = asdict(Run())
    del old["precision"]
    store.finish(Run(), {"id": Run().id, "run": old, **REST})
    assert json.loads(store.record_path(Run()).read_text()) == store.record(Run())


def test_unknown_preset_experiment_and_data_are_refused():
    refused(lambda: experiments.all_runs("huge"), "preset must be one of.*smoke")
    refused(lambda: experiments.experiment("everything", "lite"), "experiment must be one of")
    refused(lambda: sweep.load_tiles(replace(Run(), data="cifar")), "data must be one of.*cifar")
