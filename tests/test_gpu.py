"""What a GPU gives beside the CPU. These tests need pytest, SciPy and the library, and no more."""

import pickle
from dataclasses import replace

import pytest
import torch
from builders import TINY
from torch.utils.data import DataLoader, TensorDataset

import dlilib
from dlilib import DynamicLabelInjection, models, poisson_blend
from dlilib.blend import GUIDANCES, REGIONS
from dlilib.losses import METHODS
from dlilib.models import ENCODERS
from dlilib.training.trainer import Trainer, fit

pytestmark = pytest.mark.gpu
RUN = replace(TINY, epochs=3, lr=2e-3, free_share=0.5, method="dli")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


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
    torch.cuda.set_sync_debug_mode("error")
    try:
        for plan in batches[1:4]:
            trainer.update(*trainer.prepare(*plan))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_trains(few_tiles):
    assert fit(RUN, few_tiles, device="cuda")["last"]["iou"] >= 0
