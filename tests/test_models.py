import hashlib
import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import encoded, refused
from safetensors.torch import load_file, save_file

import dlilib
from dlilib import models
from dlilib.models import TrainedOn, WeightsError, build

ENCODERS = ("resnest50d", "resnet18", "efficientnet_lite0", "mobileone_s1")


@pytest.fixture
def no_hub(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(models, "hf_hub_download", refuse)


@pytest.fixture
def folder(tmp_path, monkeypatch, no_hub):
    monkeypatch.setenv("DLILIB_WEIGHTS", str(tmp_path))
    return tmp_path


def states(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[name], theirs[name]) for name in ours
    )


@pytest.mark.parametrize(
    ("encoder", "millions"), [("resnest50d", 1.58), ("resnet18", 0.68), ("mobileone_s1", 0.33)]
)
def test_encoders_have_the_papers_parameter_counts(encoder, millions):
    module = build(encoder).encoder
    assert round(models.parameters(module) / 1e6, 2) == millions
    assert models.parameters(module) == sum(tensor.numel() for tensor in module.parameters())


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_parameter_gets_a_gradient(encoder):
    model = build(encoder)
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(norm.weight)  # ResNeSt's residual branches start at zero
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model(images).square().mean().backward()
    assert [
        name
        for name, p in model.named_parameters()
        if p.grad is None or not p.grad.isfinite().all()
    ] == []
    assert [name for name, p in model.encoder.named_parameters() if not p.grad.any()] == []


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize(("num_classes", "height", "width"), [(5, 32, 32), (1, 40, 24), (3, 8, 64)])
def test_logits_have_the_images_size(encoder, num_classes, height, width):
    model = build(encoder, num_classes=num_classes).eval()
    with torch.no_grad():
        logits = model(torch.zeros(2, 3, height, width))
    assert logits.shape == (2, num_classes, height, width) and logits.dtype == torch.float32


def test_outputs_are_logits_not_probabilities():
    with torch.no_grad():
        logits = build("resnet18")(
            100 * torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        )
    assert logits.min() < 0 < logits.max()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_same_seed_same_weights_and_other_seed_others(encoder):
    assert same(states(build(encoder, seed=1)), states(build(encoder, seed=1)))
    first, other = build(encoder, seed=1).encoder, build(encoder, seed=2).encoder
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_global_generator_neither_changes_nor_is_changed(encoder):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = states(build(encoder, seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert same(first, states(build(encoder, seed=1)))


def test_default_device_does_not_matter():
    expected = states(build("resnet18", seed=1))
    torch.set_default_device("meta")
    try:
        assert same(states(build("resnet18", seed=1)), expected)
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_layout_on_the_cpu_gives_the_same_logits(encoder):
    layout = models.memory_format(encoder, torch.device("cpu"))
    model = build(encoder).eval()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(images)
        found = model.to(memory_format=layout)(images.contiguous(memory_format=layout))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("argument", "value"), [("encoder", "resnet50"), ("weights", "random")])
def test_argument_out_of_range_is_refused(argument, value):
    with pytest.raises(ValueError, match=f"{argument} must .*{value}"):
        build(**{"encoder": "resnet18", argument: value})


# --- weights from a file


@pytest.mark.parametrize("encoder", ENCODERS)
def test_weights_from_a_file_arrive_in_the_encoder_and_only_there(encoder, folder):
    source = build(encoder, seed=7)
    save_file(source.encoder.state_dict(), folder / f"{encoder}.safetensors")
    model, plain = build(encoder, weights="imagenet", seed=1), build(encoder, seed=1)
    assert same(states(model.encoder), states(source.encoder))
    assert not same(states(model.encoder), states(plain.encoder))
    assert same(states(model.decoder), states(plain.decoder))


def test_weights_under_timms_own_names_arrive(folder):
    source = build("resnest50d", seed=7)
    named = {
        name.removeprefix("model."): tensor for name, tensor in source.encoder.state_dict().items()
    }
    assert "conv1.0.weight" in named
    save_file(named, folder / "resnest50d.safetensors")
    assert same(states(build("resnest50d", weights="imagenet").encoder), states(source.encoder))


def test_tensors_of_stages_that_do_not_run_are_passed_over(folder):
    source = build("resnet18", seed=7).encoder.state_dict()
    unused = {"layer4.0.conv1.weight": torch.ones(3), "fc.bias": torch.ones(9)}
    save_file(source | unused, folder / "resnet18.safetensors")
    assert same(states(build("resnet18", weights="imagenet").encoder), source)


def test_file_is_not_read_without_asking_for_weights(folder):
    (folder / "resnet18.safetensors").write_bytes(b"not read")
    build("resnet18")


def test_batch_counters_may_be_missing_as_in_torchvisions_own_file(folder):
    source = build("resnet18", seed=7).encoder.state_dict()
    save_file(
        {n: t for n, t in source.items() if "num_batches_tracked" not in n},
        folder / "resnet18.safetensors",
    )
    assert same(states(build("resnet18", weights="imagenet").encoder), source)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_missing_tensor_is_refused_naming_file_and_tensor(encoder, folder):
    source = build(encoder).encoder.state_dict()
    missing = [name for name in source if name.endswith("weight")][-1]
    del source[missing]
    save_file(source, folder / f"{encoder}.safetensors")
    with pytest.raises(WeightsError, match="is missing") as caught:
        build(encoder, weights="imagenet")
    assert missing in str(caught.value) and str(folder / f"{encoder}.safetensors") in str(
        caught.value
    )


def test_tensor_of_another_shape_is_refused_naming_file_and_tensor(folder):
    source = build("resnet18").encoder.state_dict()
    source["layer2.0.conv1.weight"] = torch.ones(2, 3)
    save_file(source, folder / "resnet18.safetensors")
    with pytest.raises(
        WeightsError, match=r"layer2\.0\.conv1\.weight .*\(2, 3\), not \(128, 64, 3, 3\)"
    ) as caught:
        build("resnet18", weights="imagenet")
    assert str(folder / "resnet18.safetensors") in str(caught.value)


@pytest.mark.parametrize("content", ["pickle", "empty", "truncated"])
def test_file_that_is_no_safetensors_is_refused_naming_it(folder, content):
    path = folder / "resnet18.safetensors"
    save_file(build("resnet18").encoder.state_dict(), path)
    broken = {
        "pickle": pickle.dumps({"a": 1}),
        "empty": b"",
        "truncated": path.read_bytes()[:-100],
    }[content]
    path.write_bytes(broken)
    with pytest.raises(WeightsError, match="not a readable safetensors file") as caught:
        build("resnet18", weights="imagenet")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "spoil", [lambda t: t * torch.nan, lambda t: t.long()], ids=["NaN", "integers"]
)
def test_weights_that_are_no_numbers_or_integers_are_refused(folder, spoil):
    state = build("resnet18").encoder.state_dict()
    spoilt = {**state, "conv1.weight": spoil(state["conv1.weight"])}
    save_file(spoilt, folder / "resnet18.safetensors")
    refused(
        lambda: build("resnet18", weights="imagenet"),
        "conv1.weight of resnet18 holds",
    )


def test_pickle_is_never_executed(folder, tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    (folder / "resnet18.safetensors").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(WeightsError):
        build("resnet18", weights="imagenet")
    assert not (tmp_path / "executed").exists()


# --- weights from the hub


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("with_folder", [False, True])
def test_no_file_and_no_hub_says_how_to_go_on(encoder, with_folder, tmp_path, monkeypatch, no_hub):
    if with_folder:
        monkeypatch.setenv("DLILIB_WEIGHTS", str(tmp_path))
    else:
        monkeypatch.delenv("DLILIB_WEIGHTS", raising=False)
    with pytest.raises(WeightsError, match="weights=None") as caught:
        build(encoder, weights="imagenet")
    file = f"{encoder}.safetensors"
    place = f"{tmp_path / file} does not exist" if with_folder else "DLILIB_WEIGHTS is not set"
    for said in (
        place,
        models.ENCODERS[encoder].repository,
        f"{file} into the folder that DLILIB_WEIGHTS names",
    ):
        assert said in str(caught.value)


def hub_of(content, path):
    """What a model hub answers for one file: names of its commit and contents, then the bytes."""

    def answer(handler):
        found = handler.path == path
        handler.send_response(200 if found else 404)
        handler.send_header("Content-Length", str(len(content) if found else 0))
        if found:
            handler.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            handler.send_header("X-Repo-Commit", "0" * 40)
        handler.end_headers()
        if found and handler.command == "GET":
            handler.wfile.write(content)

    return answer


def build_apart(url, home, encoders):
    """A line for each encoder, from a fresh process that knows only the hub at `url`.

    The sums of its tensors, or the refusal.
    """
    code = (
        "import json; from dlilib.models import build, WeightsError\n"
        f"for encoder in {encoders!r}:\n"
        "    try:\n"
        "        state = build(encoder, weights='imagenet').encoder.state_dict()\n"
        "        sums = {name: tensor.double().sum().item() for name, tensor in state.items()}\n"
        "        print(json.dumps(sums))\n"
        "    except WeightsError as error:\n"
        "        print('refused:', str(error).replace(chr(10), ' '))\n"
    )
    kept = {
        k: v
        for k, v in os.environ.items()
        if k != "DLILIB_WEIGHTS" and not k.startswith(("HF_", "HUGGING"))
    }
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=kept | {"HF_ENDPOINT": url, "HF_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.mark.slow
def test_weights_come_from_a_hub_at_the_pinned_revision(tmp_path, serve):
    facts = models.ENCODERS["mobileone_s1"]
    repository, revision = facts.repository, facts.revision
    source = build("mobileone_s1", seed=7).encoder.state_dict()
    save_file(source, tmp_path / "model.safetensors")
    path = f"/{repository}/resolve/{revision}/model.safetensors"
    url, requests = serve(hub_of((tmp_path / "model.safetensors").read_bytes(), path))
    found, absent = build_apart(url, tmp_path / "home", ("mobileone_s1", "resnet18"))
    expected = {name: tensor.double().sum().item() for name, tensor in source.items()}
    assert json.loads(found) == pytest.approx(expected)
    assert f"GET {path}" in requests
    assert (
        absent.startswith("refused:") and "weights=None" in absent and "smp-hub/resnet18" in absent
    )


@pytest.mark.parametrize("encoder", ["resnet18", "efficientnet_lite0", "mobileone_s1"])
def test_hub_revisions_are_pinned_to_a_commit(encoder):
    revision = models.ENCODERS[encoder].revision
    assert len(revision) == 40 and set(revision) <= set("0123456789abcdef")


def test_hub_weights_that_do_not_fit_are_refused_naming_the_repository(tmp_path, monkeypatch):
    monkeypatch.delenv("DLILIB_WEIGHTS", raising=False)
    save_file({"conv1.weight": torch.ones(3)}, tmp_path / "model.safetensors")
    monkeypatch.setattr(
        models, "hf_hub_download", lambda *args, **kwargs: str(tmp_path / "model.safetensors")
    )
    with pytest.raises(WeightsError, match=r"conv1\.weight") as caught:
        build("resnet18", weights="imagenet")
    assert models.ENCODERS["resnet18"].repository in str(caught.value)


# --- the real weights


def test_real_resnet18_weights_load_and_differ_from_random(weights_root, monkeypatch, no_hub):
    monkeypatch.setenv("DLILIB_WEIGHTS", str(weights_root))
    model, plain = build("resnet18", weights="imagenet"), build("resnet18")
    released = load_file(weights_root / "resnet18.safetensors")
    for name, tensor in model.encoder.state_dict().items():
        assert torch.equal(tensor, released[name]), name
    for name, tensor in plain.encoder.named_parameters():
        assert not torch.equal(tensor, released[name]), name
    assert released["conv1.weight"].shape == (64, 3, 7, 7)


def test_builds_in_threads_are_those_of_one_after_the_other():
    seeds = range(8)
    alone = [models.build("mobileone_s1", seed=seed).state_dict() for seed in seeds]
    with ThreadPoolExecutor(4) as pool:
        together = list(
            pool.map(lambda seed: models.build("mobileone_s1", seed=seed).state_dict(), seeds)
        )
    for one, other in zip(alone, together, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_model_normalises_the_images_that_it_is_called_with():
    model = build("resnet18", num_classes=2).eval()
    images = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        by_hand = ((images - models.MEAN) / models.STD).expand(-1, 3, -1, -1)
        _, expected = models.features(model, by_hand)
        assert torch.equal(model(images), expected)
        assert torch.equal(model(images.expand(-1, 3, -1, -1)), expected)


@pytest.mark.parametrize(
    "told",
    [
        None,
        TrainedOn(("dent", "fissure à froid"), 1, (48, 64), "bilinear"),
        TrainedOn(["dent", "stain"], 3, None, "pad"),
    ],
)
def test_a_saved_model_tells_all_that_is_needed_to_load_it(told, tmp_path):
    model = build("mobileone_s1", num_classes=2, seed=1)
    model.trained_on = told
    again = models.load(models.save(model, tmp_path / "new" / "model.safetensors"))
    assert same(states(model), states(again)) and not again.training
    assert again.trained_on == told and again.encoder_name == "mobileone_s1"
    compiled = models.load(models.save(torch.compile(model), tmp_path / "compiled.safetensors"))
    assert same(states(model), states(compiled)) and compiled.trained_on == told


def test_what_a_model_was_trained_on_follows_from_its_tiles(few_tiles):
    told = TrainedOn.of(few_tiles)
    assert told == TrainedOn(few_tiles.classes, 1, few_tiles.images.shape[2:], "nearest")
    assert TrainedOn.of(replace(few_tiles, resize="pad")).size is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ("dent", "dent")}, r"classes must be 1 to 254 distinct names.*dent"),
        ({"channels": 2}, r"channels must be one of \(1, 3\), got 2"),
        ({"size": (0, 8)}, r"size must be a side, or height and width, in pixels, got .0, 8.$"),
        ({"size": None}, 'size must be None with resize="pad" alone, got None'),
        ({"resize": "pad"}, r'size must be None with resize="pad" alone, got .8, 8.$'),
        ({"resize": "area"}, "resize must be one of .*, got 'area'"),
    ],
)
def test_what_no_model_was_trained_on_is_refused(change, message, tmp_path):
    values = {"classes": ("dent", "stain"), "channels": 1, "size": (8, 8), "resize": "nearest"}
    refused(lambda: TrainedOn(**(values | change)), message)
    path = tmp_path / "model.safetensors"
    metadata = {name: json.dumps(value) for name, value in (values | change).items()}
    save_file(build("resnet18", 2).state_dict(), path, {"encoder": '"resnet18"', **metadata})
    refused(
        lambda: models.load(path), rf"{path}: its metadata are no model's: {message}", WeightsError
    )


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"encoder": "resnet18"}, "its metadata are no model's: Expecting value"),
        ({"encoder": "[" * 100_000}, "its metadata are no model's: maximum recursion depth"),
        ({"encoder": '"vgg"'}, "its metadata are no model's: encoder must be one of.*'vgg'"),
        ({"classes": '["dent", "stain"]'}, "its metadata are no model's: .*channels"),
        ({"format": "pt"}, r"does not tell its encoder: give one of \('resnet18', "),
    ],
)
def test_a_file_that_tells_no_model_is_refused(metadata, message, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(build("resnet18", 2).state_dict(), path, metadata)
    refused(lambda: models.load(path), f"{path}: {message}", WeightsError)


def test_class_names_that_are_not_the_models_are_refused(tmp_path):
    model = build("resnet18", num_classes=3)
    model.trained_on = TrainedOn(("dent", "stain"), 1, (8, 8), "nearest")
    path = tmp_path / "model.safetensors"
    refused(
        lambda: models.save(model, path), r"names the classes \('dent', 'stain'\), the model has 3"
    )
    assert not path.exists()
    save_file(model.state_dict(), path, {"encoder": '"resnet18"', **model.trained_on.as_text()})
    refused(
        lambda: models.load(path),
        r"name the classes \('dent', 'stain'\), the model has 3",
        WeightsError,
    )
    refused(
        lambda: models.save(torch.nn.Identity(), path), "model must be one of models.load or build"
    )


def test_mean_and_deviation_are_kept_with_the_weights(tmp_path):
    model = build("resnet18", num_classes=2).eval()
    model.mean = torch.tensor([0.2, 0.3, 0.4])[:, None, None]
    model.std = model.mean / 2
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    again, by_hand = (
        models.load(tmp_path / "model.safetensors", "resnet18", 2),
        build("resnet18", 2),
    )
    by_hand.load_state_dict(model.state_dict())
    images = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(again(images), model(images))
        assert torch.equal(by_hand.eval()(images), model(images))
    old = {name: x for name, x in model.state_dict().items() if name not in ("mean", "std")}
    save_file(old, tmp_path / "old.safetensors")
    released = models.load(tmp_path / "old.safetensors", "resnet18", 2)
    assert released.mean.flatten().tolist() == pytest.approx([models.MEAN] * 3)
    save_file({**model.state_dict(), "mean": torch.zeros(2)}, tmp_path / "wrong.safetensors")
    refused(
        lambda: models.load(tmp_path / "wrong.safetensors", "resnet18", 2),
        r"wrong.safetensors: mean of resnet18 is \(2,\), not \(3, 1, 1\)",
    )


def test_what_is_measured_is_mean_and_deviation_of_each_channel():
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (100, 3, 8, 8), generator=g, dtype=torch.uint8)
    mean, std = models.measured(images, range(70))
    pixels = images[:70].double() / 255
    assert mean.shape == std.shape == (3, 1, 1)
    assert torch.allclose(mean[:, 0, 0].double(), pixels.mean(dim=(0, 2, 3)))
    assert torch.allclose(std[:, 0, 0].double(), pixels.std(dim=(0, 2, 3), correction=0))
    assert models.measured(torch.zeros_like(images), [0])[1].min() > 0  # a flat image divides too


def test_a_model_normalises_however_it_is_called_and_refuses_bytes():
    model = build("resnet18", num_classes=3).eval()
    images = torch.randint(256, (2, 3, 40, 48), dtype=torch.uint8)
    pixels = images.float() / 255
    expected = models.features(model, model.normalised(pixels))[1]
    for found in (model(pixels), model.forward(pixels), model(images=pixels)):
        assert torch.equal(found, expected)
    refused(lambda: model(images), "images must be float .* got torch.uint8: divide by 255")


def test_predict_gives_maps_and_scores_at_the_images_own_size():
    model = build("resnet18", num_classes=3)
    images = torch.randint(0, 256, (2, 1, 40, 48), dtype=torch.uint8)
    maps, scores = models.predict(model, images)
    assert model.training  # as it was
    assert (
        maps.dtype == torch.uint8 and maps.shape == (2, 40, 48) and scores.shape == (2, 3, 40, 48)
    )
    with torch.no_grad():
        logits = model.eval()(images.float() / 255)
    assert torch.equal(scores, logits.sigmoid())
    assert torch.equal(maps > 0, (scores > 0.5).any(dim=1))
    chosen = scores.gather(1, (maps.long() - 1).clamp(min=0)[:, None])[:, 0]
    assert torch.equal(chosen[maps > 0], scores.amax(dim=1)[maps > 0])
    floats = models.predict(model, images.float() / 255)
    assert torch.equal(floats[1], scores)
    for size in (None, 32, (24, 40)):
        odd = models.predict(model, images[..., :37, :41], size, resize="bilinear")
        assert odd[0].shape == (2, 37, 41) and odd[1].shape == (2, 3, 37, 41)


@pytest.mark.parametrize("resize", ["nearest", "bilinear"])
def test_predict_resizes_as_data_sets_do(tmp_path, resize):
    shapes = [(64, 48), (37, 91), (200, 133), (17, 24)]
    images = [np.random.default_rng(k).integers(0, 256, s, np.uint8) for k, s in enumerate(shapes)]
    for k, image in enumerate(images):
        for folder, pixels in (("images", image), ("masks", image * 0)):
            path = tmp_path / folder / f"{k}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(encoded(pixels))
    tiles = dlilib.from_folder(tmp_path, size=32, resize=resize, classes=["pit"])
    seen = []
    model = models.build("resnet18", 1)
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]), prepend=True)
    for image in images:
        models.predict(model, torch.from_numpy(image)[None, None], 32, resize=resize)
    found = torch.cat(seen) * 255
    difference = (found - tiles.images).abs().max()
    assert difference < (1e-3 if resize == "nearest" else 1.01)  # Pillow rounds twice
    refused(lambda: models.predict(model, tiles.images, 32, resize="area"), "resize must be one of")
    refused(lambda: models.predict(model, tiles.images, 32, resize="pad"), "size must be None with")
    refused(lambda: models.predict(model, tiles.images, 32), "resize must be given with size")
    assert len(models.predict(model, tiles.images, resize="pad")[0]) == len(images)


def test_predict_works_in_chunks_and_leaves_every_module_and_gradients_alone():
    model = build("resnet18", num_classes=2)
    frozen = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for module in frozen:
        module.eval()
    images = torch.rand(5, 1, 16, 16)
    one, two = models.predict(model, images), models.predict(model, images, batch=2)
    assert (one[1] - two[1]).abs().max() < 1e-5
    assert model.training and not any(module.training for module in frozen)
    (one[1] * torch.ones((), requires_grad=True)).sum().backward()  # as a calibration does
    for dtype in (torch.bfloat16, torch.float64):
        scores = models.predict(model.to(dtype), images)[1]
        assert scores.dtype == torch.float32 and (scores - one[1]).abs().max() < 0.1
    refused(lambda: models.predict(torch.nn.Identity(), images), "model must be one of models.load")
    refused(lambda: models.predict(model, images, batch=0), "batch must be a number of images")


@pytest.mark.parametrize(
    "images, size, message",
    [
        (torch.zeros(1, 8, 8), None, r"images must be \(B, C, H, W\).*\(1, 8, 8\)"),
        (torch.zeros(1, 2, 8, 8), None, r"C 1 or 3.*\(1, 2, 8, 8\)"),
        (torch.zeros(1, 1, 8, 8).long(), None, "float in .* or uint8, got torch.int64"),
        (torch.full((1, 1, 8, 8), -1.0), None, "the model normalises them itself; got -1.0"),
        (torch.full((1, 1, 8, 8), 255.0), None, "must lie in .*got 255.0"),
        ([[0.0]], None, "images must be"),
        (torch.zeros(1, 1, 8, 8), (8,), "size must be a side, or height and width"),
        (torch.zeros(1, 1, 8, 8), 0, "size must be"),
    ],
)
def test_what_cannot_be_predicted_is_refused(images, size, message):
    model = build("resnet18", num_classes=1)
    refused(lambda: models.predict(model, images, size), message)


# --- predictions in patches


class Pixelwise(torch.nn.Module):
    """A model whose logits of a pixel depend on that pixel alone; it notes what it is called with.

    Its stride is larger than the least patch, as that of "resnet34".
    """

    stride = 16

    def __init__(self, num_classes=3):
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.register_buffer("mean", torch.zeros(3, 1, 1))
        self.weight = torch.nn.Parameter(20 * torch.randn(num_classes, 3, 1, 1, generator=draw))
        self.shapes = []

    def forward(self, images):
        self.shapes.append(tuple(images.shape))
        colours = images.expand(-1, 3, -1, -1) - 0.5
        return torch.nn.functional.conv2d(colours, self.weight)


class Numbering(Pixelwise):
    """A model whose logits are 5 for the second patch that it sees, and 0 for the others."""

    def forward(self, images):
        logits = super().forward(images)
        return torch.full_like(logits, 5.0 * (len(self.shapes) == 2))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("height, width", [(61, 83), (24, 24), (5, 50), (50, 7), (1, 1)])
@pytest.mark.parametrize("tile", [(8, 3), (24, 0), (24, 23), (40, 16)])
def test_patches_of_a_pixelwise_model_give_what_the_whole_image_does(
    channels, dtype, height, width, tile
):
    draw = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (2, channels, height, width), generator=draw, dtype=torch.uint8)
    if dtype.is_floating_point:
        images = (images / 255).to(dtype)
    before = images.clone()
    whole_maps, whole = models.predict(Pixelwise(), images)
    maps, scores = models.predict(Pixelwise(), images, tile=tile)
    assert whole.float().std() > 0.1  # it tells pixels apart
    assert scores.dtype == torch.float32 and scores.shape == (2, 3, height, width)
    assert (scores - whole).abs().max() < 1e-5
    doubtful = ((whole - 0.5).abs() < 1e-5).any(dim=1)
    top = whole.topk(2, dim=1).values
    doubtful |= top[:, 0] - top[:, 1] < 1e-5
    assert maps.dtype == torch.uint8 and torch.equal(maps[~doubtful], whole_maps[~doubtful])
    assert torch.equal(images, before)


@pytest.mark.parametrize("encoder", ["resnet18", "resnet34"])
def test_one_patch_of_exactly_the_image_is_the_whole_image(encoder):
    model = build(encoder, num_classes=2)
    images = torch.rand(1, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    whole = models.predict(model, images)
    for overlap in (0, 17):
        found = models.predict(model, images, tile=(40, overlap))
        assert torch.equal(found[0], whole[0]) and torch.equal(found[1], whole[1])
    assert model.training  # as it was


def test_small_image_is_padded_by_its_last_row_and_column():
    model = build("resnet18", num_classes=2)
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (1, 3, 20, 11), generator=draw, dtype=torch.uint8)
    padded = torch.nn.functional.pad(images.float() / 255, (0, 21, 0, 12), mode="replicate")
    expected = models.predict(model, padded)[1][..., :20, :11]
    found = models.predict(model, images, tile=(32, 8))[1]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_logits_of_overlapping_patches_are_averaged_with_a_linear_ramp():
    images = torch.zeros(1, 1, 8, 12)
    scores = models.predict(Numbering(), images, tile=(8, 4), batch=1)[1]
    expected = torch.tensor([0.0, 0, 0, 0, 1, 2, 3, 4, 5, 5, 5, 5]).sigmoid()
    torch.testing.assert_close(scores, expected.expand(1, 3, 8, 12))


def test_patches_go_through_the_model_at_most_a_batch_at_once():
    model = Pixelwise()
    images = torch.rand(2, 1, 32, 80, generator=torch.Generator().manual_seed(0))
    found = models.predict(model, images, tile=(32, 16), batch=3)[1]  # four patches an image
    assert model.shapes == [(3, 1, 32, 32), (1, 1, 32, 32)] * 2
    assert torch.equal(models.predict(model, images, tile=(32, 16))[1], found)
    assert model.shapes[4:] == [(4, 1, 32, 32)] * 2


def test_no_image_gives_no_prediction_in_patches_too():
    maps, scores = models.predict(Pixelwise(), torch.zeros(0, 1, 16, 24), tile=(8, 0))
    assert maps.shape == (0, 16, 24) and scores.shape == (0, 3, 16, 24)


def test_patch_is_checked_before_anything_is_predicted():
    model, images = Pixelwise(), torch.zeros(1, 1, 32, 32)
    for tile, size, message in [
        ((16, 4), 32, r"size and tile cannot be given together, got size=32 and tile=\(16, 4\)"),
        ((20, 4), None, "the size in tile must be a multiple of 8 .* got 20"),
        ((16, 16), None, "overlap must be .* below the size 16, got 16"),
        (16, None, r"tile must be \(size, overlap\)"),
    ]:
        refused(lambda t=tile, s=size: models.predict(model, images, s, tile=t), message)
    assert model.shapes == []


@pytest.mark.parametrize(
    ("encoder", "two", "four"),
    [
        ("resnet18", 544_640, 932_608),
        ("mobileone_s1", 655_232, 1_043_200),
        ("resnest50d", 1_208_192, 1_596_160),
    ],
)
def test_the_authors_decoder_has_four_convolutions_a_block(encoder, two, four):
    """Its sizes were counted in the authors' code."""
    for convs, expected in ((2, two), (4, four)):
        decoder = models.build(encoder, decoder_convs=convs).decoder
        assert models.parameters(decoder) == expected
    with pytest.raises(ValueError, match=r"decoder_convs must be one of \(2, 4\), got 3"):
        models.build(encoder, decoder_convs=3)


def test_a_model_with_the_authors_decoder_comes_back(tmp_path):
    model = models.build("resnet18", 2, seed=3, decoder_convs=4).eval()
    again = models.load(models.save(model, tmp_path / "model.safetensors"))
    images = torch.rand(1, 1, 16, 16)
    assert torch.equal(again(images), model(images))
