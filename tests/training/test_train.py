import itertools
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import TINY, refused, without_seconds

import dlilib
from dlilib import IGNORE, losses, models
from dlilib.analysis.figures import example_maps
from dlilib.extras import MissingExtraError
from dlilib.metrics import class_map, iou
from dlilib.training import few_shot
from dlilib.training.store import Store, read_record
from dlilib.training.trainer import Trainer, fit

RUN = replace(TINY, epochs=3, lr=2e-3, free_share=0.5, method="dli")


@pytest.fixture(scope="module")
def record(few_tiles):
    return fit(RUN, few_tiles)


def test_run_repeats_bit_for_bit_and_leaves_the_global_generator_alone(few_tiles, record):
    state = torch.get_rng_state()
    assert without_seconds(fit(RUN, few_tiles)) == without_seconds(record)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1},
        {"method": "baseline"},
        {"p_poisson": 0.0},
        {"split": "tile"},
        {"ties": "random"},
        {"decoder_convs": 4},
    ],
)
def test_what_a_run_names_changes_its_result(few_tiles, record, changed):
    assert fit(replace(RUN, **changed), few_tiles)["history"] != record["history"]


def test_record_holds_consistent_counts(few_tiles, record):
    assert len(record["history"]["loss"]) == RUN.epochs
    for moment in ("best", "last"):
        kept = record[moment]
        tp, fp, fn = np.sum(kept["classes"], axis=0)
        assert tp + fn == record["positives"]
        assert kept["iou"] == pytest.approx(iou(tp, fp, fn))
        assert (np.sum(kept["images"], axis=0) == (tp, fp, fn)).all()
        k = kept["epoch"] - 1
        assert (record["history"]["tp"][k], record["history"]["fp"][k]) == (tp, fp)
        assert record["history"]["classes"][k] == [[tp, fp] for tp, fp, _ in kept["classes"]]
    pairs = zip(record["history"]["tp"], record["history"]["fp"], strict=True)
    curve = [iou(tp, fp, record["positives"] - tp) for tp, fp in pairs]
    assert record["best"]["iou"] == pytest.approx(max(curve))
    assert record["last"]["epoch"] == RUN.epochs
    assert [few_tiles.masks[i].gt(0).sum() for i in record["val_images"]] == [
        t + f for t, _, f in record["last"]["images"]
    ]


def test_without_a_defect_to_find_the_first_epoch_stays_the_best(few_tiles, record, tmp_path):
    masks = few_tiles.masks.clone()
    masks[record["val_images"]] = 0
    tiles = replace(few_tiles, masks=masks)
    path, told = Store(tmp_path).record_path(RUN), []
    fit(RUN, tiles, folder=tmp_path, on_epoch=lambda epoch, score: told.append(score))
    kept = read_record(path)
    assert len(told) == RUN.epochs and np.isnan(told).all()
    assert kept["positives"] == 0 and (kept["best"]["epoch"], kept["last"]["epoch"]) == (1, 3)
    row = dlilib.records(tmp_path).iloc[0]
    assert np.isnan([row["iou_best"], row["iou_last"], row["iou_Crack"]]).all()
    for moment in ("best", "last"):  # as earlier versions kept it
        tp, fp, fn = np.sum(kept[moment]["classes"], axis=0)
        kept[moment]["iou"] = iou(tp, fp, fn)
    Store(tmp_path).finish(RUN, kept)
    assert np.isnan(dlilib.records(tmp_path)["iou_best"].item())


@pytest.mark.parametrize("method", ["baseline", "focal", "balanced", "wce"])
def test_every_competitor_trains(few_tiles, method):
    loss = fit(replace(RUN, method=method), few_tiles)["history"]["loss"]
    assert loss[-1] < loss[0]


@pytest.mark.parametrize("encoder", ["resnest50d", "mobileone_s1"])
def test_other_encoders_train(few_tiles, encoder):
    assert fit(replace(RUN, encoder=encoder, epochs=1), few_tiles)["encoder_parameters"] < 2e6


def test_bf16_trains(few_tiles):
    assert np.isfinite(
        fit(replace(RUN, precision="bf16", epochs=1), few_tiles)["history"]["loss"]
    ).all()


def test_free_validation_tiles_are_scored(few_tiles):
    alarms = fit(replace(RUN, free_in_val=True, epochs=1), few_tiles)["last"]["false_alarms"]
    assert alarms["of"] > 0
    assert alarms["images"] <= alarms["of"]


def test_a_seed_shows_every_method_the_same_images(few_tiles):
    batches = []
    for method in ("baseline", "dli"):
        trainer = Trainer(replace(RUN, method=method), few_tiles, torch.device("cpu"))
        batches.append(torch.cat(list(trainer._batches(torch.Generator().manual_seed(0)))))
    assert torch.equal(*batches)


def test_last_batch_of_one_image_is_left_out(few_tiles):
    trainer = Trainer(
        replace(RUN, method="baseline", free_share=0.0), few_tiles, torch.device("cpu")
    )
    n = int((few_tiles.labels[trainer.train] > 0).sum())
    trainer.run = replace(trainer.run, batch=n - 1)
    assert [len(b) for b in trainer._batches(torch.Generator())] == [n - 1]


@pytest.mark.parametrize("stop", [1, 2])
def test_interrupted_run_ends_bit_identical(few_tiles, record, tmp_path, stop):
    class Interrupted(Exception):
        pass

    def interrupt(epoch, _):
        if epoch == stop:
            raise Interrupted

    with pytest.raises(Interrupted):
        fit(RUN, few_tiles, folder=tmp_path, on_epoch=interrupt)
    assert Store(tmp_path).checkpoint_path(RUN).exists()
    assert without_seconds(fit(RUN, few_tiles, folder=tmp_path)) == without_seconds(record)
    assert not Store(tmp_path).checkpoint_path(RUN).exists()


def test_deadline_stops_before_an_epoch_and_the_next_call_goes_on(
    few_tiles, record, tmp_path, monkeypatch
):
    ticks = itertools.count()
    monkeypatch.setattr(
        "dlilib.training.trainer.time.monotonic", lambda: next(ticks)
    )  # an epoch takes three ticks
    epochs, results = [], []
    assert fit(RUN, few_tiles, folder=tmp_path, deadline=-1) is None
    for _ in range(RUN.epochs):
        deadline = next(ticks) + 6  # room for one epoch, not for two
        results.append(
            fit(
                RUN,
                few_tiles,
                folder=tmp_path,
                deadline=deadline,
                on_epoch=lambda e, _: epochs.append(e),
            )
        )
    assert epochs == [1, 2, 3]
    assert results[:2] == [None, None]
    assert without_seconds(results[2]) == without_seconds(record)


def test_a_run_that_was_slow_elsewhere_goes_on_in_little_time(few_tiles, record, tmp_path):
    trainer = Trainer(RUN, few_tiles, torch.device("cpu"))
    trainer.step()
    trainer.seconds = 1e6  # of another machine, or of a pause
    Store(tmp_path).save(RUN, trainer.state())
    done = fit(RUN, few_tiles, folder=tmp_path, deadline=time.monotonic() + 100)
    assert without_seconds(done) == without_seconds(record)


def test_a_record_that_comes_in_meanwhile_is_kept(few_tiles, record, tmp_path):
    earlier = {**record, "seconds": 12345.0}
    store = Store(tmp_path)
    done = fit(RUN, few_tiles, folder=tmp_path, on_epoch=lambda *_: store.finish(RUN, earlier))
    assert done["seconds"] == store.record(RUN)["seconds"] == 12345.0
    assert not store.checkpoint_path(RUN).exists()


def test_the_optimiser_is_that_of_the_device_not_of_the_checkpoint(few_tiles):
    trainer = Trainer(TINY, few_tiles, torch.device("cpu"))
    state = trainer.state()
    for group in state["optimizer"]["param_groups"]:
        group["fused"] = True
    trainer.restore(state)
    assert not any(group["fused"] for group in trainer.optimizer.param_groups)


def test_finished_run_is_read_not_trained(few_tiles, tmp_path, monkeypatch):
    first = fit(TINY, few_tiles, folder=tmp_path)
    monkeypatch.setattr("dlilib.training.trainer.Trainer", None)
    again = fit(TINY, few_tiles, folder=tmp_path)
    assert without_seconds(again) == without_seconds(first)
    assert again["seconds"] == first["seconds"]


def test_record_of_a_thousand_epochs_stays_under_30_kb(small_toy, record, tmp_path):
    trainer = Trainer(replace(RUN, size=32, epochs=1000), small_toy, torch.device("cpu"))
    images = {
        "images": [[12345, 12345, 12345]] * 80 + [[0, 0, 0]] * 190
    }  # as many as free_in_val gives
    examples = {f"MT_Blowhole/exp1_num_10871{k}": "x" * 900 for k in range(5)}
    trainer.best, trainer.last = (
        {**record["best"], **images, "examples": examples},
        {**record["last"], **images},
    )
    trainer.history = {"loss": [0.1234] * 1000, "tp": [567890] * 1000, "fp": [456789] * 1000}
    trainer.history["classes"] = [[[112345, 12345]] * 5] * 1000
    trainer.val = trainer.val.repeat(20)[:270]
    Store(tmp_path).finish(trainer.run, trainer.record())
    path = Store(tmp_path).record_path(trainer.run)
    assert 20_000 < path.stat().st_size < 30_000
    assert len(read_record(path)["history"]["loss"]) == 100
    assert len(read_record(path)["history"]["classes"]) == 15
    assert len(read_record(path)["history"]["tp"]) == 1000


def test_tiles_that_are_not_the_runs_are_refused(few_tiles):
    for changed in (
        {"data": "magnetic_tiles"},
        {"size": 64},
        {"threshold": 127},
        {"resize": "bilinear"},
    ):
        (name, value), *_ = changed.items()
        with pytest.raises(ValueError, match=f"wants {name} {value!r}"):
            fit(replace(RUN, **changed), few_tiles)


def test_record_or_checkpoint_of_other_data_is_not_taken_for_the_runs(few_tiles, tmp_path):
    other = replace(few_tiles, digest="other")
    run = replace(RUN, epochs=2)
    assert fit(run, few_tiles, folder=tmp_path / "finished")
    with pytest.raises(ValueError, match=f"{run.id}.*other data"):
        fit(run, other, folder=tmp_path / "finished")
    trainer = Trainer(run, few_tiles, torch.device("cpu"))
    Store(tmp_path / "unfinished").save(run, trainer.state())
    with pytest.raises(ValueError, match="other data"):
        fit(run, other, folder=tmp_path / "unfinished")


FEW = replace(RUN, split="tile", shots=1, method="dli", p_poisson=0.0)


def test_few_shot_run_keeps_how_its_features_tell_defects_apart(small_toy):
    record = fit(replace(FEW, size=32, epochs=1), small_toy)
    assert record["data"]["train"][1:] == [1] * 5
    features = record["features"]
    assert 0 <= features["auroc"] <= 1 and len(features["normal"]) == len(features["defect"]) == 100
    assert np.allclose(
        np.mean(features["normal"] + features["defect"], axis=0), 0, atol=2e-3
    )  # principal components


def test_features_of_one_kind_alone_separate_nothing():
    features = np.eye(4)
    for defect in (True, False):
        found = few_shot.separation(features, np.full(4, defect))
        assert np.isnan(found["auroc"]) and found["normal"] == found["defect"] == []


def test_a_few_shot_run_wants_scikit_learn_before_it_trains(few_tiles, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(MissingExtraError, match="sklearn"):
        Trainer(FEW, few_tiles, torch.device("cpu"))


def test_a_quarter_of_a_few_shot_epoch_is_defective(few_tiles):
    trainer = Trainer(replace(FEW, free_share=0.5), few_tiles, torch.device("cpu"))
    labels = few_tiles.labels[torch.cat(trainer._batches(torch.Generator()))]
    assert (labels > 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert set(torch.bincount(labels)[1:].tolist()) == {int((labels > 0).sum()) // 5}


def test_options_of_a_run_reach_its_split_and_its_injection(few_tiles):
    options = {"until": "uniform", "region": "mask", "guidance": "donor", "label": "tight"}
    run = replace(RUN, p_poisson=0.25, ties="random", **options)
    whole, half = (
        Trainer(replace(run, fraction=fraction), few_tiles, torch.device("cpu"))
        for fraction in (1.0, 0.5)
    )
    for name in ("p_poisson", "ties", *options):
        assert getattr(whole.injection, name) == getattr(run, name)
    assert (whole.injection.replacement, half.injection.replacement) == ("if short", True)
    assert len(half.train) < len(whole.train) and set(half.train) < set(whole.train)


def test_optimiser_decays_no_weights_and_its_rate_as_a_cosine(few_tiles):
    trainer = Trainer(RUN, few_tiles, torch.device("cpu"))
    (group,) = trainer.optimizer.param_groups
    assert group["weight_decay"] == 0
    for share in (1, 0.75, 0.25):  # of the rate, in the three epochs
        trainer.step()
        assert group["lr"] == pytest.approx(share * RUN.lr)


def test_an_epochs_loss_is_the_mean_over_its_images(few_tiles, monkeypatch):
    trainer = Trainer(RUN, few_tiles, torch.device("cpu"))
    sizes = [len(rows) for rows, _, _ in trainer.plan_epoch()]
    assert len(set(sizes)) > 1  # else the mean over batches would be the same
    monkeypatch.setattr(trainer, "update", lambda images, masks, plan: torch.tensor(len(images)))
    trainer.step()
    images = sum(sizes)
    expected = sum(n * n for n in sizes) / images
    assert trainer.history["loss"] == [pytest.approx(expected, rel=1e-3)]


def test_class_weights_of_a_run_are_those_of_its_training_images(few_tiles):
    trainer = Trainer(replace(RUN, method="wce"), few_tiles, torch.device("cpu"))
    found = trainer.criterion.criterion.first.weights
    ours, leaking = (
        losses.wce_weights(losses.pixel_shares(few_tiles, rows))
        for rows in (trainer.train, np.arange(len(few_tiles)))
    )
    assert found.tolist() == pytest.approx(ours.tolist()) != pytest.approx(leaking.tolist())


def test_examples_are_what_is_predicted_of_the_named_images(few_tiles):
    trainer = Trainer(RUN, few_tiles, torch.device("cpu"))
    trainer.step()
    found = example_maps({"best": {"examples": trainer._validate()[1]}})
    maps = torch.cat([class_map(logits) for _, _, logits in trainer._outputs(trainer.val)])
    assert len(found) == few_tiles.num_classes
    assert len(maps.unique(dim=0)) > 1  # else any of them would do
    for name, shown in found.items():
        (row,) = (k for k, i in enumerate(trainer.val) if few_tiles.names[i] == name)
        assert torch.equal(torch.as_tensor(shown), maps[row])


@pytest.mark.parametrize("changed", [{"nbr": 0.1}, {"similarity": True}])
def test_few_shot_terms_change_the_run(few_tiles, changed):
    plain, other = fit(FEW, few_tiles), fit(replace(FEW, **changed), few_tiles)
    assert without_seconds(plain)["history"] != without_seconds(other)["history"]


def test_background_term_is_added_with_its_weight(few_tiles):
    trainer = Trainer(FEW, few_tiles, torch.device("cpu"))
    images, masks = trainer.prepare(*next(iter(trainer.plan_epoch())))
    trainer.model.eval()
    with torch.no_grad():
        plain = trainer.loss(images, masks)
        term = few_shot.normal_background(trainer._forward(images)[0], masks)
        trainer.criterion.run = replace(FEW, nbr=0.25)
        assert trainer.loss(images, masks).item() == pytest.approx((plain + 0.25 * term).item())


def prototypes(trainer):
    defective = trainer.train[trainer.tiles.labels[trainer.train] > 0]
    return few_shot.prototypes(trainer._outputs(defective), trainer.tiles.num_classes)


def test_composites_alike_to_no_prototype_in_particular_weigh_one(few_tiles):
    trainer = Trainer(FEW, few_tiles, torch.device("cpu"))
    rows, flips, plan = next(iter(trainer.plan_epoch()))
    images, masks = trainer.prepare(rows, flips, plan)
    trainer.model.eval()
    with torch.no_grad():
        plain = trainer.loss(images, masks, plan).item()
        trainer.criterion.prototypes = torch.zeros(5, 128)
        assert trainer.loss(images, masks, plan).item() == pytest.approx(plain)
        trainer.criterion.prototypes = prototypes(trainer)
        assert trainer.loss(images, masks, plan).item() != pytest.approx(plain, rel=1e-6)


def test_prototypes_are_of_each_classs_own_real_defects(few_tiles):
    trainer = Trainer(FEW, few_tiles, torch.device("cpu"))
    found = prototypes(trainer)
    support = [int(i) for i in trainer.train if few_tiles.labels[i] == 3]
    images, masks, _ = trainer._gather(torch.tensor(support))
    with torch.no_grad():
        own = few_shot.region_features(trainer._forward(images)[0], masks == 3)
    assert found.shape == (5, 128)
    assert torch.allclose(found[2], own[0], atol=1e-4)


def test_interrupted_few_shot_run_ends_as_an_undisturbed_one(few_tiles, tmp_path):
    run = replace(FEW, nbr=0.1, similarity=True)
    whole = fit(run, few_tiles)
    trainer = Trainer(run, few_tiles, torch.device("cpu"))
    trainer.step()
    Store(tmp_path).save(run, trainer.state())
    assert without_seconds(fit(run, few_tiles, folder=tmp_path)) == without_seconds(whole)


@pytest.mark.slow
def test_few_shot_papers_encoder_trains(small_toy):
    run = replace(FEW, size=32, encoder="resnet34", epochs=1, free_share=0.2, nbr=0.1)
    assert fit(run, small_toy)["encoder_parameters"] > 2e7


def test_data_without_donors_and_images_of_another_size_are_refused(few_tiles):
    refused(
        lambda: fit(replace(RUN, size=64), few_tiles),
        "the run wants size 64, the tiles have 16",
    )
    free = replace(few_tiles, labels=few_tiles.labels * 0, masks=few_tiles.masks * 0)
    refused(lambda: fit(RUN, free), "class Blowhole has no donor")


def test_a_batch_larger_than_the_data_is_all_of_it(few_tiles):
    assert fit(replace(TINY, batch=10_000), few_tiles)["last"]["epoch"] == 1


def test_own_data_is_normalised_by_what_is_measured_on_it_and_the_studys_as_released(few_tiles):
    mine = replace(few_tiles, source="mine", images=few_tiles.images // 4)
    run = replace(RUN, data="mine", epochs=1)
    trainer = Trainer(run, mine, torch.device("cpu"))
    pixels = mine.images[trainer.train].double() / 255
    assert trainer.model.mean.flatten().tolist() == pytest.approx([pixels.mean().item()] * 3)
    found = fit(run, mine)["normalisation"]
    assert found["std"] == pytest.approx([pixels.std(correction=0).item()] * 3)
    resumed = Trainer(run, mine, torch.device("cpu"))
    old = trainer.state()
    old["model"] = {k: v for k, v in old["model"].items() if k not in ("mean", "std")}
    resumed.restore(old)  # begun by an earlier version: goes on as it began
    assert resumed.model.mean[0].item() == pytest.approx(models.MEAN)
    resumed.restore(trainer.state())
    assert torch.equal(resumed.model.mean, trainer.model.mean)
    released = Trainer(RUN, few_tiles, torch.device("cpu"))
    assert released.model.mean[0].item() == pytest.approx(models.MEAN)


def test_ignored_pixels_train_and_count_nothing(few_tiles):
    masks = few_tiles.masks.clone()
    masks[:, :, :4][masks[:, :, :4] == 0] = IGNORE
    fringed = replace(few_tiles, masks=masks)
    for method in ("wce", "dli"):
        record = fit(replace(RUN, method=method, epochs=1), fringed)
        assert np.isfinite(record["history"]["loss"]).all()
        plain = fit(replace(RUN, method=method, epochs=1), few_tiles)
        assert record["positives"] == plain["positives"]
        assert np.sum(record["last"]["classes"]) < np.sum(plain["last"]["classes"])


def test_tiles_that_do_not_fit_are_refused_by_name(few_tiles):
    padded = few_tiles.subset((few_tiles.labels == 0).nonzero()[:, 0])
    padded = replace(padded, images=padded.images[..., :12, :], masks=padded.masks[:, :12])
    refused(lambda: fit(RUN, padded), "the tiles are 12×16: resnet18 needs sides divisible by 8")
    refused(
        lambda: fit(replace(RUN, method="baseline", free_share=1.0), few_tiles.subset([0, 1, 2])),
        'split "image", seed 0: no image is left to validate among the 3 of toy',
    )
    refused(
        lambda: fit(
            replace(RUN, method="baseline", free_share=0.0),
            few_tiles.subset((few_tiles.labels == 1).nonzero()[:2, 0]),
        ),
        "toy: 1 of 2 images train, and no batch of an epoch has two of them, which batch norm",
    )


def test_a_record_of_other_arrays_is_not_taken_for_these(few_tiles, tmp_path):
    fit(TINY, few_tiles, folder=tmp_path)
    refused(
        lambda: fit(TINY, few_tiles.subset(range(0, 72, 2)), folder=tmp_path),
        "other data than these tiles",
    )
    refused(lambda: fit(TINY, None), "tiles must be a TileSet, got NoneType")
    refused(lambda: fit(None, few_tiles), "run must be a Run, got NoneType")
