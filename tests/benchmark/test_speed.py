import contextlib
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from builders import TINY

import dlilib
from dlilib import IGNORE, augment, blend, composite, multigrid
from dlilib.augment import Warp
from dlilib.benchmark import speed, timing
from dlilib.benchmark.timing import compare
from dlilib.benchmark.training import Traffic
from dlilib.blend import GUIDANCES, REGIONS
from dlilib.models import LIGHT_ENCODERS
from dlilib.training.trainer import Trainer

RUN = replace(TINY, method="dli", free_share=0.5)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def on_meta(monkeypatch):
    """A device without values: what needs one (a wait on a GPU) raises. It knows no autocast."""
    monkeypatch.setattr(torch, "autocast", lambda *a, **k: contextlib.nullcontext())
    return torch.device("meta")


@pytest.fixture
def all_at_once(monkeypatch):
    """A function that lets a CPU do as a GPU does: all images at once, in whole."""

    def change():
        for module in (blend, composite):
            monkeypatch.setattr(module, "one_by_one", lambda device: False)

    return change


OPTIONS = [
    *({"region": r, "guidance": g} for r in REGIONS for g in GUIDANCES),
    {"place": "anywhere"},
    {"place": "anywhere", "region": "mask", "label": "tight"},
    {"label": "tight", "empty_composites": True, "clip": False},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o.values())))
@pytest.mark.parametrize("channels", [1, 3])
def test_images_changed_all_at_once_equal_those_changed_one_by_one(
    toy, all_at_once, channels, options
):
    labels = torch.zeros(30, dtype=torch.int64)
    images = toy.images[:30].float().expand(-1, channels, -1, -1) / 255
    masks = toy.masks[:30].clone()
    masks[:, 20:30, 20:30] = IGNORE
    masks[7] = IGNORE  # nothing can be shown
    transform = dlilib.DynamicLabelInjection(toy, **options, generator=generator())
    plan = transform.plan(labels)
    fast = transform.apply_plan(plan, images, masks, labels)
    all_at_once()
    plain = transform.apply_plan(plan, images, masks, labels)
    assert (fast[0] - plain[0]).abs().max() < 1e-5
    assert torch.equal(fast[1], plain[1]) and torch.equal(fast[2], plain[2])
    assert torch.equal(plain[0][7], images[7]) and (plain[1][7] == IGNORE).all()


def test_crops_of_any_size_are_pasted_alike_all_at_once_and_one_by_one(toy, all_at_once):
    images = [torch.full((side, 2 * side), 40 * side, dtype=torch.uint8) for side in (3, 5, 6)]
    donors = dlilib.Donors.from_crops(images, [image > 0 for image in images], [1, 2, 2])
    transform = dlilib.DynamicLabelInjection(donors, place="anywhere", generator=generator())
    batch = toy.images[:20].float() / 255, toy.masks[:20], torch.zeros(20, dtype=torch.int64)
    plan = transform.plan(batch[2], (64, 64))
    fast = transform.apply_plan(plan, *batch)
    all_at_once()
    plain = transform.apply_plan(plan, *batch)
    assert (fast[0] - plain[0]).abs().max() < 1e-5 and (fast[0] != batch[0]).any()
    assert torch.equal(fast[1], plain[1])


@pytest.mark.parametrize("region", REGIONS)
def test_images_blended_together_equal_those_blended_one_by_one(all_at_once, region):
    target, donor = (torch.rand(9, 2, 40, 32, generator=generator(k)) for k in (0, 1))
    mask = torch.rand(9, 40, 32, generator=generator(2)) < torch.linspace(0, 1, 9)[:, None, None]
    fast = dlilib.poisson_blend(target, donor, mask, region=region)
    all_at_once()
    assert (dlilib.poisson_blend(target, donor, mask, region=region) - fast).abs().max() < 1e-5


@pytest.mark.parametrize("sides", [(200, 260), (193, 400)])
def test_sine_transforms_by_halves_are_those_by_products(monkeypatch, sides):
    target, donor = (torch.rand(4, 1, *sides, generator=generator(k)) for k in (0, 1))
    mask = torch.zeros(4, *sides, dtype=torch.bool)
    mask[0] = mask[1, 20:40, 3:190] = mask[2, -9:, -30:] = True  # full, part, at the border, none
    folded = dlilib.poisson_blend(target, donor, mask)
    monkeypatch.setattr(blend, "FOLDED", 1000)
    assert (dlilib.poisson_blend(target, donor, mask) - folded).abs().max() < 1e-5


@pytest.mark.parametrize(
    "at", [(0, 0, 1, 1), (3, 4, 9, 6), (0, 5, 12, 9), (11, 8, 12, 9), (0, 0, 12, 9)]
)
def test_box_holds_the_mask_a_pixel_before_and_two_after(at):
    masks = torch.zeros(3, 1, 12, 9, dtype=torch.bool)
    top, left, bottom, right = at
    masks[1, 0, top:bottom, left:right] = True
    boxes = blend.surroundings(masks)
    assert boxes[0] is None and boxes[2] is None
    rows, columns = (max(top - 1, 0), min(bottom + 2, 12)), (max(left - 1, 0), min(right + 2, 9))
    assert boxes[1] == blend.Box(*rows, *columns)


def test_grid_is_torchs_affine_grid():
    maps = augment.draw_warps([augment.Warp(affine=1.0)], torch.zeros(5, dtype=int), generator())
    expected = F.affine_grid(maps, [5, 1, 21, 34], align_corners=True)
    assert (augment._grid(maps, 21, 34) - expected).abs().max() < 1e-6


def test_mirrors_are_told_from_other_maps():
    names = list(augment.RELEASED_WARPS)
    maps = augment.draw_warps(
        list(augment.RELEASED_WARPS.values()), torch.arange(5).repeat(40), generator()
    )
    flips, rest = augment.mirrors(maps)
    assert {names[k % 5] for k in rest.tolist()} == {"Blowhole", "Crack"}
    images = torch.rand(200, 1, 9, 8, generator=generator())
    masks = torch.rand(200, 9, 8, generator=generator()) < 0.5
    flipped, warped = augment.flip(images, masks, flips), augment.warp(images, masks, maps)
    only = [k for k in range(200) if k not in set(rest.tolist())]
    assert 100 < len(only) < 200 and flips[only].any(0).all() and not flips[rest].any()
    assert (flipped[0] - warped[0])[only].abs().max() < 1e-5 and torch.equal(
        flipped[1][only], warped[1][only]
    )


@pytest.mark.parametrize("region, most", [("rectangle", 170), ("mask", 3500)])
def test_injection_asks_its_device_for_nothing_and_runs_as_much_for_a_large_batch(
    toy, on_meta, monkeypatch, region, most
):
    # whether the mask-bounded solver has converged is the only question, asked at its end
    none = torch.zeros(0, dtype=torch.int64)
    monkeypatch.setattr(multigrid, "_unfinished", lambda *_: none)
    transform = dlilib.DynamicLabelInjection.as_released(toy, region=region, generator=generator())
    ops = []
    for batch in (32, 32, 128):  # the first one also makes the solver's matrices, once
        labels = torch.zeros(batch, dtype=torch.int64)
        images, masks = (x[:batch].to(on_meta) for x in (toy.images.float(), toy.masks))
        with Traffic("meta") as traffic:
            out = transform.apply_plan(transform.plan(labels), images, masks, labels)
        assert out[0].is_meta and out[2].min() > 0
        ops.append(traffic.ops)
    assert ops[0] >= ops[1] == ops[2] < most


def test_training_epoch_asks_its_device_for_the_loss_at_its_end_and_nothing_else(
    few_tiles, on_meta
):
    trainer = Trainer(RUN, few_tiles, on_meta)
    for batch in trainer.plan_epoch():
        assert trainer.update(*trainer.prepare(*batch)).is_meta
    with pytest.raises(RuntimeError, match=r"item.*meta"):
        trainer._train_epoch()


STILL = {"warps": Warp(affine=0), "replacement": True}  # nothing that is drawn again


@pytest.mark.parametrize("options", [STILL, {"ties": "lowest"}, STILL | {"share": 0.5}])
@pytest.mark.parametrize(
    "make", [dlilib.DynamicLabelInjection.as_released, dlilib.DynamicLabelInjection]
)
def test_no_python_runs_for_each_image_of_a_plan(toy, make, options):
    transform = make(toy, generator=generator(), **{**STILL, **options})

    def calls(batch, sizes):
        labels, count = torch.zeros(batch * sizes, dtype=torch.int64), Counter()
        sys.setprofile(lambda frame, event, _: count.update([event]))
        try:
            transform.plan_batches(labels, [batch] * sizes)
        finally:
            sys.setprofile(None)
        return count["call"]

    calls(2, 2)
    assert calls(8, 3) == calls(64, 3)


def test_plans_drawn_together_are_each_like_one_drawn_alone(toy):
    transform = dlilib.DynamicLabelInjection(toy, ties="lowest", generator=generator())
    sizes = [16, 1, 0, 16, 5]
    labels = torch.randint(0, 6, (sum(sizes),), generator=generator()) * (
        torch.rand(sum(sizes), generator=generator(1)) < 0.3
    )
    plans = transform.plan_batches(labels, sizes)
    assert len(plans) == len(sizes)
    for own, plan in zip(labels.split(sizes), plans, strict=True):
        assert plan.target.tolist() == (own == 0).nonzero()[:, 0].tolist()
        assert plan.label.tolist() == dlilib.plan_classes(own, 5)[own == 0].tolist()
        assert torch.equal(toy.labels[plan.donor], plan.label)
        for c in range(1, 6):  # without replacement within a batch
            donors = plan.donor[plan.label == c].tolist()
            assert len(set(donors)) == len(donors)
    same = transform.plan_batches(labels, torch.tensor(sizes))
    assert [len(plan.batch) for plan in same] == sizes
    with pytest.raises(ValueError, match=r"sizes add up to 3, but there are 5 labels$"):
        transform.plan_batches(labels[:5], [2, 1])
    for wrong in ([2.5, 2.5], [6, -1], 5, None, "23"):
        with pytest.raises(ValueError, match="sizes must be a row of non-negative integers"):
            transform.plan_batches(labels[:5], wrong)


def test_epoch_of_plans_is_used_batch_by_batch(few_tiles):
    trainer = Trainer(RUN, few_tiles, torch.device("cpu"))
    for rows, flips, plan in trainer.plan_epoch():
        images, masks = trainer.prepare(rows, flips, plan)
        assert len(images) == len(masks) == len(rows) == len(flips)
        present = [[int(c) for c in m.unique() if c] for m in masks]
        labels = few_tiles.labels[rows].clone()
        labels[plan.target] = plan.label
        assert all(set(found) <= {int(label)} for found, label in zip(present, labels, strict=True))


def test_compare_gives_medians_and_ratios_to_the_first():
    frame = compare(
        {"one": lambda: sum(range(20_000)), "ten": lambda: sum(range(200_000))}, repeats=5
    )
    assert frame["what"].tolist() == ["one", "ten"] and frame["n"].tolist() == [5, 5]
    assert (frame["low"] <= frame["ms"]).all() and (frame["ms"] <= frame["high"]).all()
    assert frame["ratio"][0] == 1 and frame["ratio"][1] > 3
    assert (frame["ratio_low"] <= frame["ratio"]).all()
    assert (frame["ratio"] <= frame["ratio_high"]).all()


def test_steps_are_timed_in_turn_and_the_device_waited_for(monkeypatch):
    said = []
    monkeypatch.setattr(timing, "_wait", lambda device: said.append("wait"))
    compare({name: lambda name=name: said.append(name) for name in "ab"}, repeats=2)
    assert said == ["wait", "a", "wait", "wait", "b", "wait"] * 3


def test_times_are_for_one_image_or_one_step(few_tiles, monkeypatch):
    monkeypatch.setattr(timing, "_seconds", lambda step, device: 0.9)
    assert set(speed.blending(size=24, batch=2, repeats=1)["ms"]) == {450}
    assert set(speed.training(replace(RUN, batch=8), few_tiles, steps=3, repeats=1)["ms"]) == {300}
    scaling = speed.scaling((8,), (1, 3), repeats=1).set_index("batch")["ms"]
    assert scaling.to_dict() == {1: 900, 3: 300}
    loading = speed.loading(few_tiles, 8, workers=0, repeats=1)  # 9 batches of 72 images
    assert set(loading["ms"]) == {100} and set(loading["images_per_s"]) == {80}


def test_ceilings_are_counted_by_the_second(few_tiles, monkeypatch):
    monkeypatch.setattr(timing, "_seconds", lambda step, device: 1.0)
    few, twice = (
        speed.roofline(replace(RUN, batch=batch), few_tiles, repeats=1).set_index("what")
        for batch in (8, 16)
    )
    assert few["ceiling"].to_dict() == {
        "arithmetic": 2 * 2048**3 / 1e12,
        "memory": 2 * 4 * 2**26 / 1e9,
    }
    more = twice["achieved"] / few["achieved"]
    assert more["arithmetic"] == 2
    assert 1.1 < more["memory"] < 2  # weights do not grow with the batch
    assert few["share"].to_numpy() == pytest.approx(few["achieved"] / few["ceiling"])


def test_a_remainder_counts_its_calls_and_its_copy(few_tiles, monkeypatch):
    monkeypatch.setattr(timing, "_seconds", lambda step, device: 1.0)
    left = speed.remainder(few_tiles, batch=8, free=6, repeats=1)
    _, channels, height, width = few_tiles.images.shape
    copied = 8 * height * width * (4 * channels + 1)  # float images, masks of bytes
    assert left["copy_gb_s"].to_numpy() == pytest.approx(2 * copied / 1e9)
    assert set(left["product_gflop_s"]) == {2 * 1024**3 / 1e9}
    assert (left["calls"] == left["calls"].round()).all()  # at 1 ms each, as many as there are
    assert left["calls"].between(20, 2000).all()


@pytest.mark.slow
def test_tables_have_the_peers_that_are_installed(few_tiles):
    blending = speed.blending(size=24, batch=2, repeats=2)
    assert set(blending["mask"]) == {"all", "box"} and "OpenCV seamlessClone" in set(
        blending["what"]
    )
    assert "dlilib, region mask" in set(blending["what"])
    injection = speed.injection(few_tiles, batch=8, free=6, repeats=2)
    assert "dlilib, three channels" in set(injection["what"])
    assert injection["what"][0] == "dlilib" and np.isfinite(injection["ms"]).all()
    training = speed.training(RUN, few_tiles, steps=1, repeats=2)
    assert training["what"].tolist() == ["resident batch", "without injection", "with injection"]
    assert (training["images_per_s"] > 0).all() and (training["precision"] == "fp32").all()
    roof = speed.roofline(replace(RUN, batch=2), few_tiles, repeats=1)
    assert (roof["share"] > 0).all() and isinstance(roof, pd.DataFrame)


@pytest.mark.slow
def test_tables_of_regions_classes_and_what_time_goes_into(few_tiles):
    regions = speed.regions(few_tiles, 24, repeats=2)
    assert regions["images"].unique().tolist() == ["40 of 16×16", "1 of 24×24"]
    assert regions["what"].tolist() == [*REGIONS] * 2 and (regions["ms"] > 0).all()
    classes = speed.classes(few_tiles, (1, 7), batch=8, free=6, repeats=2)
    assert classes["what"].tolist() == ["1", "7"]
    left = speed.remainder(few_tiles, batch=8, free=6, repeats=2)
    assert left["p_poisson"].tolist() == [0.0, 0.5, 1.0]
    parts = left[["copy", "arithmetic", "calls", "rest"]].sum(axis=1)
    assert parts.to_numpy() == pytest.approx(left["ms"].to_numpy())
    assert left["arithmetic"].tolist()[0] == 0 < left["arithmetic"].tolist()[2]
    loading = speed.loading(few_tiles, 8, workers=0, repeats=2)
    assert loading["what"].tolist() == ["collated", "balanced"]
    assert (loading["images_per_s"] > 0).all()


def test_what_cannot_be_timed_is_refused(few_tiles):
    with pytest.raises(ValueError, match="a batch of 100 is more than the 72 tiles"):
        speed.loading(few_tiles, 100)
    free = few_tiles.subset((few_tiles.labels == 0).nonzero()[:, 0])
    with pytest.raises(ValueError, match="needs defective and defect-free images"):
        speed.regions(free)


def test_precisions_are_timed_where_there_are_units_for_both(few_tiles, monkeypatch):
    for units in (True, False):
        monkeypatch.setattr(speed, "has_bf16_units", lambda device, units=units: units)
        assert ("precisions" in speed.measurements()) == units
    frame = speed.precisions(RUN, few_tiles, steps=1, repeats=1)
    assert frame["what"].tolist() == ["fp32", "bf16"]
    assert (frame["size"] == few_tiles.images.shape[-1]).all() and (
        frame["batch"] == RUN.batch
    ).all()


def test_each_light_encoder_is_trained_and_the_first_compiled_too(few_tiles, monkeypatch):
    trained = []

    def training(run, tiles, device, compiled):
        trained.append((run.encoder, run.precision, compiled))
        return pd.DataFrame({"what": ["resident batch"]})

    monkeypatch.setattr(speed, "training", training)
    assert len(speed.measurements()["training"](few_tiles)) == len(LIGHT_ENCODERS)
    assert trained == [(name, "auto", name == "resnet18") for name in LIGHT_ENCODERS]


def test_the_readmes_ratios_are_told_to_hold_or_not():
    def table(what, ratio, **more):
        row = {"what": what, "ratio": ratio, "ratio_low": ratio - 1, "ratio_high": ratio + 1}
        return pd.DataFrame([{"what": "dlilib", "ratio": 1.0, **more}, row | more])

    first, *_, last = speed.CLAIMS
    tables = {
        "injection": table("authors' code", first.least - 2, p_poisson=0.0),
        "blending": table("OpenCV seamlessClone", last.least + 5, mask="all"),
    }
    found = speed.verdicts(tables)
    assert found["holds"].tolist() == ["no", "–", "–", "yes"]
    assert (
        found["here"][0]
        == f"{first.least - 2:.1f} ({first.least - 3:.1f} to {first.least - 1:.1f})"
    )
    assert speed.verdicts({})["holds"].tolist() == ["–"] * 4


def test_the_documentation_says_what_is_claimed():
    page = Path(__file__).parents[2] / "docs" / "explanation" / "speed.md"
    for claim in speed.CLAIMS:
        assert f"| {claim.text} | {claim.least:g} |" in page.read_text()


def test_the_largest_difference_is_of_a_blend_that_changes_the_target(small_toy, monkeypatch):
    assert 0 < speed.largest_difference(small_toy) < 1e-5
    monkeypatch.setattr(
        speed, "poisson_blend", lambda target, donor, mask: target + (len(target) > 1) * 0.25
    )
    assert speed.largest_difference(small_toy) == pytest.approx(0.25)


def test_finding_tells_milliseconds_and_the_share_of_the_ceiling():
    balancing = pd.DataFrame(
        {"what": ["dlilib", "others", "dlilib"], "p_poisson": [0.0, 0.0, 1.0], "ms": [20, 400, 76]}
    )
    trained = pd.DataFrame(
        {"encoder": "resnet18", "what": ["resident batch", "with injection"], "ms": [90.0, 100.0]}
    )
    assert speed.finding(balancing, trained) == (
        "A batch of 64 is balanced in 20 ms at a share of 0, 76 ms at a share of 1 of Poisson "
        "blending.\nTraining with injection reaches this much of the ceiling's speed: "
        "90% (resnet18)."
    )


def test_a_compiler_that_fails_is_told_and_left_out(few_tiles, monkeypatch, capsys):
    def fail(*_, **__):
        def run(*_):
            raise RuntimeError("no compiler")

        return run

    monkeypatch.setattr(torch, "compile", fail)
    frame = speed.training(RUN, few_tiles, steps=1, repeats=1, compiled=True)
    assert frame["what"].tolist() == ["resident batch", "without injection", "with injection"]
    assert "graphs fails: RuntimeError: no compiler" in capsys.readouterr().err


def test_compiled_step_is_timed_too(few_tiles, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda step, mode, dynamic: step)
    frame = speed.training(RUN, few_tiles, steps=1, repeats=1, compiled=True)
    assert frame["what"].tolist()[-2:] == ["compiled", "graphs"]


def test_authors_code_that_is_not_there_is_named(toy, tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path}.*label_fusion"):
        speed.injection(toy, batch=8, free=6, released_src=str(tmp_path), root=tmp_path)


def test_nothing_injected_has_gradients(toy):
    images = (toy.images[:6].float() / 255).requires_grad_()
    out = dlilib.DynamicLabelInjection(toy, generator=generator())(
        images, toy.masks[:6], toy.labels[:6]
    )
    assert not out[0].requires_grad


def test_no_batches_have_no_plans(toy):
    assert (
        dlilib.DynamicLabelInjection(toy).plan_batches(torch.zeros(0, dtype=torch.int64), []) == []
    )
