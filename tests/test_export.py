"""A trained model that was kept, read again and exported gives the same everywhere."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import TINY
from safetensors.torch import load_file, save_file

from dlilib import fit, models
from dlilib.export import Runtime, Segmenter, to_onnx
from dlilib.extras import MissingExtraError
from dlilib.models import ENCODERS, LIGHT_ENCODERS, TrainedOn, WeightsError
from dlilib.training.store import Store
from dlilib.training.trainer import Trainer

RUN = replace(TINY, method="dli", epochs=2, encoder="mobileone_s1")


def test_a_kept_model_is_the_trained_one(few_tiles, tmp_path):
    record = fit(RUN, few_tiles, folder=tmp_path, keep_model=True)
    trainer = Trainer(RUN, few_tiles, torch.device("cpu"))
    for _ in range(RUN.epochs):
        trainer.step()
    model = models.load(Store(tmp_path).model_path(RUN))
    assert model.trained_on == TrainedOn.of(few_tiles)
    assert model.trained_on.size == tuple(few_tiles.images.shape[2:])
    x = few_tiles.images[:4].float() / 255
    with torch.no_grad():
        assert torch.equal(model(x), trainer.model.eval()(x)) and not model.training
    assert record["last"] == trainer.last


def test_a_run_finished_without_its_model_is_trained_again_for_it(few_tiles, tmp_path):
    first = fit(RUN, few_tiles, folder=tmp_path)
    path = Store(tmp_path).model_path(RUN)
    assert not path.exists()
    again = fit(RUN, few_tiles, folder=tmp_path, keep_model=True)
    assert path.exists() and again["last"] == first["last"]
    stamp = path.stat().st_mtime_ns
    assert fit(RUN, few_tiles, folder=tmp_path, keep_model=True)["last"] == first["last"]
    assert path.stat().st_mtime_ns == stamp
    path.unlink()
    others = replace(few_tiles, images=255 - few_tiles.images, digest="")
    with pytest.raises(ValueError, match="other data than these tiles"):
        fit(RUN, others, folder=tmp_path, keep_model=True)
    with pytest.raises(ValueError, match="keep_model needs a folder"):
        fit(RUN, few_tiles, keep_model=True)


def test_weights_of_another_model_are_refused_by_name(few_tiles, tmp_path):
    fit(RUN, few_tiles, folder=tmp_path, keep_model=True)
    path = Store(tmp_path).model_path(RUN)
    with pytest.raises(
        WeightsError, match=rf"{path.name}: holds a model of mobileone_s1, not of resnet18"
    ):
        models.load(path, "resnet18", 5)
    early = tmp_path / "early.safetensors"  # it does not tell its encoder
    save_file(load_file(path), early)
    with pytest.raises(WeightsError, match=rf"{early.name}: encoder\.\S+ of resnet18 is missing"):
        models.load(early, "resnet18", 5)
    with pytest.raises(
        WeightsError, match=r"segmentation_head\S+ of mobileone_s1 is \(5, .*, not \(3, "
    ):
        models.load(path, "mobileone_s1", 3)
    save_file(
        {name: x for name, x in load_file(path).items() if "decoder" in name},
        tmp_path / "part.safetensors",
    )
    with pytest.raises(
        WeightsError, match=r"part\.safetensors: encoder\S+ of mobileone_s1 is missing"
    ):
        models.load(tmp_path / "part.safetensors", "mobileone_s1", 5)
    with pytest.raises(WeightsError, match=r"part\.safetensors: does not tell its encoder: give.*"):
        models.load(tmp_path / "part.safetensors")


def test_an_exported_model_tells_what_it_was_trained_on(tmp_path):
    model = models.build("mobileone_s1", num_classes=2)
    model.trained_on = TrainedOn(("Délaminage", "dent"), 3, None, "pad")
    session = Runtime(to_onnx(model, tmp_path / "model.onnx", (3, 32, 32))).session
    told = session.get_modelmeta().custom_metadata_map
    assert {name: json.loads(text) for name, text in told.items()} == {
        "classes": ["Délaminage", "dent"],
        "channels": 3,
        "size": None,
        "resize": "pad",
    }


@pytest.mark.parametrize(
    "encoder",
    [
        pytest.param(name, marks=pytest.mark.slow) if name != "mobileone_s1" else name
        for name in LIGHT_ENCODERS
    ],
)
@pytest.mark.parametrize("shape", [(1, 32, 48), pytest.param((3, 40, 40), marks=pytest.mark.slow)])
def test_onnx_gives_the_same_logits_at_any_batch(encoder, shape, tmp_path):
    model = models.build(encoder, num_classes=2)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model.train()(
            torch.rand(4, 3, *shape[1:], generator=generator)
        )  # statistics as of training, not 0 and 1
        model.eval()
    runtime = Runtime(to_onnx(model, tmp_path / "model.onnx", shape))
    images = torch.rand(3, *shape, generator=generator)
    with torch.no_grad():
        expected = model(images).numpy()
        assert np.abs(Segmenter(model)(images).numpy() - expected).max() < 1e-4
    for batch in (1, 3):
        found = runtime(images[:batch].numpy())
        assert (
            found.shape == (batch, 2, *shape[1:]) and np.abs(found - expected[:batch]).max() < 1e-3
        )
    assert np.abs(expected).max() > 1e-2


def test_a_model_in_half_precision_is_exported_in_float32(tmp_path):
    model = models.build("mobileone_s1", num_classes=2).to(torch.bfloat16)
    runtime = Runtime(to_onnx(model, tmp_path / "model.onnx", (1, 32, 32)))
    assert runtime(np.zeros((1, 1, 32, 32), np.float32)).dtype == np.float32
    assert next(model.parameters()).dtype == torch.bfloat16  # the model stays what it was


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ENCODERS)
def test_onnx_with_free_sides_takes_any_that_the_encoder_takes(encoder, tmp_path):
    model = models.build(encoder, num_classes=2).eval()
    model.mean, model.std = torch.full((3, 1, 1), 0.7), torch.full((3, 1, 1), 0.3)
    runtime = Runtime(to_onnx(model, tmp_path / "model.onnx", (1, None, None)))
    stride = ENCODERS[encoder].stride
    for batch, height, width in ((1, stride, stride), (3, 2 * stride, 5 * stride)):
        images = torch.rand(batch, 1, height, width, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = model(images).numpy()
        assert np.abs(runtime(images.numpy()) - expected).max() < 1e-3


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 30, 32), r"sides divisible by 8, the encoder's stride.*\(1, 30, 32\)"),
        ((2, 32, 32), r"shape must be \(C, H, W\), C 1 or 3.*\(2, 32, 32\)"),
        ((32, 32), r"shape must be \(C, H, W\)"),
        ((1, 0, 32), r"shape must be \(C, H, W\)"),
        (None, "shape must be.*None"),
        ((1, 32.0, 32), r"shape must be"),
    ],
)
def test_shapes_that_cannot_be_exported_are_refused(shape, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        to_onnx(models.build("resnet18"), tmp_path / "model.onnx", shape)


def test_merged_branches_are_fewer_parameters_and_the_model_keeps_its_own():
    model = models.build("mobileone_s1").eval()
    before = models.parameters(model)
    assert models.parameters(Segmenter(model)) < before == models.parameters(model)


@pytest.mark.parametrize(
    ("missing", "use"),
    [
        ("onnxscript", lambda path: to_onnx(models.build("resnet18"), path, (1, 16, 16))),
        ("onnxruntime", Runtime),
    ],
    ids=["onnxscript", "onnxruntime"],
)
def test_the_extra_is_named_where_it_is_missing(missing, use, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, missing, None)
    message = rf"{missing} is missing.*pip install -e .\.\[export\]"
    with pytest.raises(MissingExtraError, match=message):
        use(tmp_path / "model.onnx")


def test_runs_that_pad_and_runs_that_resize_are_different():
    assert replace(RUN, resize="pad").id != RUN.id
