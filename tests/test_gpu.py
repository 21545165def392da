"""What a GPU gives beside the CPU. These tests need pytest, SciPy and the library, and no more."""

import pickle
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import TINY
from torch.utils.data import DataLoader, TensorDataset

import dlilib
from dlilib import DynamicLabelInjection, losses, metrics, models, poisson_blend
from dlilib.blend import GUIDANCES, REGIONS
from dlilib.losses import METHODS
from dlilib.models import ENCODERS
from dlilib.training.store import Store
from dlilib.training.trainer import Trainer, fit

pytestmark = pytest.mark.gpu
RUN = replace(TINY, epochs=3, lr=2e-3, free_share=0.5, method="dli")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@contextmanager
def never_waiting():
    """Let whatever makes the CPU wait for the GPU be an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def batch(toy):
    """Images, masks and labels: twelve defect-free, five defective."""
    free, defective = ((toy.labels == 0).nonzero()[:12, 0], (toy.labels > 0).nonzero()[::20, 0])
    rows = torch.cat([defective[:2], free, defective[2:5]])
    return toy.images[rows].float() / 255, toy.masks[rows], toy.labels[rows]


@pytest.fixture(params=["highest", "high"])
def precision(request):
    """Of products of float32 matrices: all bits, or TF32."""
    torch.set_float32_matmul_precision(request.param)
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("guidance", GUIDANCES)
def test_plan_gives_the_same_images(toy, batch, precision, region, guidance):
    options = {"region": region, "guidance": guidance}
    transform = DynamicLabelInjection.as_released(toy, generator=seeded(), **options)
    plan = transform.plan(batch[2])
    expected = transform.apply_plan(plan, *batch)
    result = transform.apply_plan(plan, *(x.cuda() for x in batch))
    assert all(x.is_cuda for x in result)
    assert (result[0].cpu() - expected[0]).abs().max() < 1e-3
    assert all(torch.equal(x.cpu(), y) for x, y in zip(result[1:], expected[1:], strict=True))


def test_labels_may_stay_on_the_cpu(toy, batch):
    transform = DynamicLabelInjection(toy, generator=seeded())
    plan = transform.plan(batch[2])
    expected = transform.apply_plan(plan, *batch)
    _, masks, labels = transform.apply_plan(plan, batch[0].cuda(), batch[1].cuda(), batch[2])
    assert torch.equal(labels, expected[2]) and torch.equal(masks.cpu(), expected[1])


def test_a_released_batch_never_waits(toy, batch):
    transform = DynamicLabelInjection.as_released(toy, generator=seeded()).cuda()
    images, masks = (x.cuda() for x in batch[:2])
    plan = transform.plan(batch[2])
    with never_waiting():
        _, _, labels = transform.apply_plan(plan, images, masks, batch[2])
    assert (labels > 0).all()


def test_folded_transforms_give_the_same_images(precision):
    target, donor = (torch.rand(2, 3, 256, 300, generator=seeded(k)) for k in (0, 1))
    mask = torch.zeros(2, 256, 300, dtype=torch.bool)
    mask[:, 20:200, 40:260] = True
    expected = poisson_blend(target.double(), donor.double(), mask)
    found = poisson_blend(target.cuda(), donor.cuda(), mask.cuda())
    assert (found.cpu() - expected).abs().max() < 1e-3


def test_a_transform_that_was_on_the_gpu_serves_a_loader(toy, batch):
    transform = DynamicLabelInjection(toy, generator=seeded()).cuda()
    assert transform(*(x.cuda() for x in batch))[0].is_cuda
    assert pickle.loads(pickle.dumps(transform))(*batch)[0].device.type == "cpu"
    loader = DataLoader(
        TensorDataset(*batch), len(batch[0]), collate_fn=dlilib.collate(transform), num_workers=1
    )
    (_, _, labels), *_ = loader
    assert (labels > 0).all()


def test_global_generator_is_left_alone():
    torch.cuda.manual_seed_all(5)
    torch.rand(3, device="cuda")
    before = torch.cuda.get_rng_state()
    models.build("resnet18", seed=1)
    assert torch.equal(torch.cuda.get_rng_state(), before)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_logits_are_the_cpus(encoder):
    model = models.build(encoder).eval()
    images = torch.rand(2, 3, 32, 32, generator=seeded())
    layout = models.memory_format(encoder, torch.device("cuda"))
    whole = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)  # with all bits of float32
    with torch.no_grad(), whole:
        expected = model(images)
        found = model.to("cuda", memory_format=layout)(images.to("cuda", memory_format=layout))
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-2, atol=1e-2)


class Pixelwise(torch.nn.Module):
    """A model whose logits of a pixel depend on that pixel alone."""

    stride = 8

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(3, 1, 1))
        self.weight = torch.nn.Parameter(20 * torch.randn(3, 3, 1, 1, generator=seeded()))

    def forward(self, images):
        return torch.nn.functional.conv2d(images - 0.5, self.weight)


def test_patches_are_stitched_on_the_models_device():
    images = torch.rand(1, 3, 50, 70, generator=seeded())
    maps, scores = models.predict(Pixelwise().cuda(), images, tile=(24, 8))
    assert maps.is_cuda and scores.is_cuda
    expected = models.predict(Pixelwise(), images, tile=(24, 8))[1]
    torch.testing.assert_close(scores.cpu(), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("method", METHODS)
def test_an_epoch_never_waits(small_toy, method):
    run = replace(RUN, size=32, method=method)
    trainer = Trainer(run, small_toy, torch.device("cuda"))
    batches = list(trainer.plan_epoch())
    trainer.update(*trainer.prepare(*batches[0]))
    with never_waiting():
        for plan in batches[1:4]:
            trainer.update(*trainer.prepare(*plan))


@pytest.mark.parametrize("method", METHODS)
def test_losses_and_counts_are_the_cpus(toy, method):
    masks = toy.masks[::9]
    logits = 4 * torch.randn(len(masks), toy.num_classes, *masks.shape[1:], generator=seeded())
    criterion = losses.criterion(method, toy, np.arange(len(toy)))
    (expected, gradient), (found, there) = (
        _loss_and_gradient(criterion, logits.to(device, copy=True), masks.to(device))
        for device in ("cpu", "cuda")
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(there, gradient, rtol=1e-3, atol=1e-7)
    on_gpu = logits.cuda(), masks.cuda()
    with never_waiting():
        counted = metrics.count(*on_gpu)
    assert torch.equal(counted.cpu(), metrics.count(logits, masks))


def _loss_and_gradient(criterion, logits, masks):
    logits.requires_grad_()
    loss = criterion(logits, metrics.one_hot(masks, logits.shape[1]).float())
    loss.backward()
    return loss.detach().cpu(), logits.grad.cpu()


FEW_SHOT = {"split": "tile", "shots": 1, "nbr": 0.1, "similarity": True, "p_poisson": 0.0}


@pytest.mark.parametrize("changed", [{}, {"precision": "bf16"}, FEW_SHOT])
def test_an_interrupted_run_goes_on(few_tiles, tmp_path, changed):
    run = replace(RUN, **changed)
    stop = time.monotonic() - 1
    assert fit(run, few_tiles, device="cuda", folder=tmp_path, deadline=stop) is None
    trainer = Trainer(run, few_tiles, torch.device("cuda"))
    trainer.step()
    Store(tmp_path).save(run, trainer.state())
    record = fit(run, few_tiles, device="cuda", folder=tmp_path)
    assert len(record["history"]["loss"]) == run.epochs
    assert np.isfinite(record["history"]["loss"]).all() and record["last"]["iou"] >= 0
