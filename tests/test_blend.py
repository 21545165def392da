import cv2
import numpy as np
import pytest
import torch
from builders import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse.linalg import splu

from dlilib import DynamicLabelInjection, blend, cut_paste, poisson_blend
from dlilib.blend import GUIDANCES, REGIONS, without_ring

SIZES = [(16, 16), (9, 23), (31, 8), (3, 3), (3, 12)]
MASKS = ["random", "blob", "full", "border", "single", "empty", "ring"]
OPTIONS = pytest.mark.parametrize("region, guidance", [(r, g) for r in REGIONS for g in GUIDANCES])


def reference(target, donor, mask, guidance, region):
    """The linear system written out pixel by pixel: 4 u_p - sum u_q = sum v_pq.

    target, donor: (C, H, W) float64.
    """
    height, width = mask.shape
    inner = np.zeros_like(mask)
    inner[1:-1, 1:-1] = True
    mask = mask & inner
    unknown = inner if region == "rectangle" else mask
    index = np.arange(height * width).reshape(height, width)
    target, donor = (image.reshape(len(image), -1).T for image in (target, donor))  # (H W, C)
    rows, columns = np.nonzero(unknown)
    here = index[rows, columns]
    right = target.copy()
    right[here] = 0
    diagonal = np.where(unknown.ravel(), 4.0, 1.0)
    matrix = sparse.diags(diagonal).tocsr()
    for down, across in [(0, 1), (0, -1), (1, 0), (-1, 0)]:
        there = index[rows + down, columns + across]
        start = (
            here if down + across > 0 else there
        )  # where the forward difference between the two belongs
        of_target, of_donor = target[here] - target[there], donor[here] - donor[there]
        if guidance == "mixed":
            of_donor = np.where(np.abs(of_donor) > np.abs(of_target), of_donor, of_target)
        follows = mask.ravel()[start] if region == "rectangle" else np.ones(len(here), bool)
        right[here] += np.where(follows[:, None], of_donor, of_target)
        matrix = matrix - sparse.coo_matrix((np.ones(len(here)), (here, there)), shape=matrix.shape)
    return splu(matrix.tocsc()).solve(right).T.reshape(-1, height, width)


def batch_reference(target, donor, mask, guidance, region):
    arrays = (x.double().numpy() for x in (target, donor))
    rows = zip(*arrays, mask.numpy(), strict=True)
    return torch.from_numpy(
        np.stack([reference(t, d, m, guidance=guidance, region=region) for t, d, m in rows])
    )


@pytest.fixture
def short_products(monkeypatch):
    """Sine transforms with eight bits, as a GPU's may have ten."""
    exact = blend._sine_basis

    def rounded(height, width, dtype, device):
        *matrices, inverse = exact(height, width, dtype, device)
        return (*(matrix.bfloat16().to(dtype) for matrix in matrices), inverse)

    monkeypatch.setattr(blend, "_sine_basis", rounded)
    blend._sine_halves.cache_clear()
    yield
    blend._sine_halves.cache_clear()


@pytest.mark.parametrize("sides", [(40, 56), (200, 210)])
def test_short_products_are_made_up_for(short_products, monkeypatch, sides):
    target, donor = levels(2, 1, *sides, seed=0), levels(2, 1, *sides, seed=1)
    mask = torch.zeros(2, *sides, dtype=torch.bool)
    mask[:, 5:30, 8:33] = True
    expected = batch_reference(target, donor, mask, "mixed", "rectangle")
    errors = []
    for refined in (False, True):
        monkeypatch.setattr(blend, "_shortens", lambda device, refined=refined: refined)
        errors.append((poisson_blend(target, donor, mask) - expected).abs().max())
    assert errors[0] > 0.002  # half a grey level
    assert errors[1] < errors[0] / 20


@pytest.mark.parametrize("setting", ["legacy", "new"])
def test_short_products_are_known_by_either_setting(setting):
    settings = torch.backends.cuda.matmul
    assert not blend._shortens(torch.device("cuda"))
    if setting == "legacy":
        torch.set_float32_matmul_precision("high")
    else:
        settings.fp32_precision = "tf32"
    try:
        assert blend._shortens(torch.device("cuda")) and not blend._shortens(torch.device("cpu"))
    finally:
        settings.fp32_precision = "ieee"
        torch.set_float32_matmul_precision("highest")


def levels(*shape, seed):
    """Grey levels / 256: exact in float32, and so are their differences.

    So ties of gradients are ties.
    """
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(seed)) / 256


def make_mask(kind, height, width, batch=2):
    mask = torch.zeros(batch, height, width, dtype=torch.bool)
    if kind == "random":
        return torch.rand(mask.shape, generator=torch.Generator().manual_seed(height * width)) < 0.4
    if kind == "blob":
        mask[:, height // 4 : -(height // 4) or None, width // 4 : -(width // 4) or None] = True
    elif kind == "full":
        mask[:] = True
    elif kind == "border":
        mask[:, : height // 2 + 1, : width // 2 + 1] = True
    elif kind == "single":
        mask[:, height // 2, width // 2] = True
    elif kind == "ring":
        mask[:] = True
        mask[:, 1:-1, 1:-1] = False
    return mask


def example(height=16, width=19, kind="random", channels=3, batch=2):
    target = levels(batch, channels, height, width, seed=1)
    donor = levels(batch, channels, height, width, seed=2)
    return target, donor, make_mask(kind, height, width, batch)


def pairs(tiles, labels=(1, 2, 4, 5)):
    """One defective image of each class onto one defect-free image each, and the defects' masks.

    Grey levels / 256.
    """
    defective = torch.tensor([int((tiles.labels == c).nonzero()[3, 0]) for c in labels])
    free = (tiles.labels == 0).nonzero()[: len(labels), 0]
    return tiles.images[free] / 256, tiles.images[defective] / 256, tiles.masks[defective] > 0


@OPTIONS
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("height, width", SIZES)
def test_agrees_with_the_linear_system_solved_by_scipy(height, width, kind, region, guidance):
    target, donor, mask = example(height, width, kind)
    expected = batch_reference(target, donor, mask, guidance=guidance, region=region)
    result = poisson_blend(target, donor, mask, guidance=guidance, region=region)
    assert result.dtype == torch.float32
    assert (result - expected).abs().max() < 1e-4


@OPTIONS
def test_agrees_with_scipy_on_real_defects(real_tiles, region, guidance):
    target, donor, mask = pairs(real_tiles)
    expected = batch_reference(target, donor, mask, guidance=guidance, region=region)
    assert (
        poisson_blend(target, donor, mask, guidance=guidance, region=region) - expected
    ).abs().max() < 1e-4
    assert (expected - target).abs().max() > 0.05  # the defects do show


@OPTIONS
def test_agrees_with_scipy_on_toy_defects(toy, region, guidance):
    target, donor, mask = pairs(toy, labels=(1, 2, 3, 4, 5))
    expected = batch_reference(target, donor, mask, guidance=guidance, region=region)
    assert (
        poisson_blend(target, donor, mask, guidance=guidance, region=region) - expected
    ).abs().max() < 1e-4


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("scale", [1 / 256, 1 / 255])
def test_ties_of_mixed_gradients_go_to_the_target(toy, region, scale):
    # 1 / 256: grey levels are exact. 1 / 255: the float32 values as they are, compared without
    # further rounding.
    target, donor, mask = (
        x * 256 * scale if x.is_floating_point() else x for x in pairs(toy, labels=(2, 4, 5))
    )
    expected = batch_reference(target, donor, mask, guidance="mixed", region=region)
    for dtype in (torch.float32, torch.float64):
        result = poisson_blend(
            target.to(dtype), donor.to(dtype), mask, guidance="mixed", region=region
        )
        assert (result - expected).abs().max() < 1e-4


@OPTIONS
def test_donor_equal_to_target_returns_the_target(region, guidance):
    target, _, mask = example()
    assert torch.equal(
        poisson_blend(target, target.clone(), mask, guidance=guidance, region=region), target
    )


@OPTIONS
@pytest.mark.parametrize("kind", ["empty", "ring"])
def test_mask_without_inner_pixels_returns_the_target_exactly(kind, region, guidance):
    target, donor, mask = example(kind=kind)
    result = poisson_blend(target, donor, mask, guidance=guidance, region=region)
    assert torch.equal(result, target)
    assert result.data_ptr() != target.data_ptr()


@OPTIONS
@pytest.mark.parametrize("height, width", [(1, 1), (1, 9), (2, 2), (2, 7), (7, 2), (5, 1)])
def test_images_too_small_to_have_inner_pixels_are_returned(height, width, region, guidance):
    target, donor, mask = example(height, width, "full")
    assert torch.equal(poisson_blend(target, donor, mask, guidance=guidance, region=region), target)


@OPTIONS
def test_constant_offset_of_the_donor_changes_nothing(region, guidance):
    target, donor, mask = example()
    expected = poisson_blend(target, donor, mask, guidance=guidance, region=region)
    moved = poisson_blend(target, donor + 0.25, mask, guidance=guidance, region=region)
    assert (moved - expected).abs().max() < 1e-6
    assert (expected - target).abs().max() > 0.1


@OPTIONS
def test_inverted_images_give_the_inverted_result(region, guidance):
    target, donor, mask = example()
    result = poisson_blend(1 - target, 1 - donor, mask, guidance=guidance, region=region)
    assert (
        1 - result - poisson_blend(target, donor, mask, guidance=guidance, region=region)
    ).abs().max() < 1e-5


@pytest.mark.parametrize("guidance", GUIDANCES)
def test_region_mask_changes_only_the_mask(guidance):
    target, donor, mask = example()
    result = poisson_blend(target, donor, mask, guidance=guidance, region="mask")
    outside = ~without_ring(mask)[:, None].expand_as(target)
    assert torch.equal(result[outside], target[outside])
    assert (result - target)[~outside].abs().max() > 0.1


@OPTIONS
@pytest.mark.parametrize("kind", ["full", "border", "random"])
def test_outermost_ring_of_the_image_stays(kind, region, guidance):
    target, donor, mask = example(kind=kind)
    result = poisson_blend(target, donor, mask, guidance=guidance, region=region)
    for side in [(..., 0, slice(None)), (..., -1, slice(None)), (..., 0), (..., -1)]:
        assert torch.equal(result[side], target[side])
    assert not torch.equal(result, target)


def test_full_mask_with_donor_guidance_is_the_donor_when_their_rings_agree():
    target, donor, mask = example(kind="full")
    donor = torch.where(without_ring(mask)[:, None], donor, target)
    assert (
        poisson_blend(target, donor, mask, guidance="donor", region="mask") - donor
    ).abs().max() < 1e-4


def test_single_pixel_by_hand():
    # Region mask, donor guidance: 4 u = sum of the target's neighbours + sum of (donor - its
    # neighbours).
    target, donor = torch.full((1, 1, 3, 3), 0.5), torch.zeros(1, 1, 3, 3)
    donor[0, 0, 1, 1] = 0.2
    mask = make_mask("single", 3, 3, batch=1)
    assert poisson_blend(target, donor, mask, guidance="donor", region="mask")[
        0, 0, 1, 1
    ].item() == pytest.approx(0.7)
    # Rectangle: only the two forward differences that start at the pixel are the donor's:
    # 4 u = 4 · 0.5 + 2 · 0.2.
    assert poisson_blend(target, donor, mask, guidance="donor", region="rectangle")[
        0, 0, 1, 1
    ].item() == pytest.approx(0.6)
    # mixed: a target whose gradients are larger keeps them
    target[0, 0, 1, 1] = 0.9
    for region in REGIONS:
        assert poisson_blend(target, donor, mask, guidance="mixed", region=region)[
            0, 0, 1, 1
        ].item() == pytest.approx(0.9)


@OPTIONS
def test_batch_equals_one_by_one(region, guidance):
    target, donor, mask = example(batch=5)
    mask[1] = False  # one converges at once, one is harder than the others
    mask[2] = True
    together = poisson_blend(target, donor, mask, guidance=guidance, region=region)
    for i in range(5):
        alone = poisson_blend(
            target[i : i + 1], donor[i : i + 1], mask[i : i + 1], guidance=guidance, region=region
        )
        assert (together[i] - alone[0]).abs().max() < 1e-6
    assert poisson_blend(
        target[:0], donor[:0], mask[:0], guidance=guidance, region=region
    ).shape == (
        0,
        *target.shape[1:],
    )


@OPTIONS
def test_inputs_are_not_changed(region, guidance):
    inputs = example()
    before = [x.clone() for x in inputs]
    poisson_blend(*inputs, guidance=guidance, region=region)
    cut_paste(*inputs)
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))


@OPTIONS
def test_float64_stays_float64_and_is_exact(region, guidance):
    target, donor, mask = example()
    result = poisson_blend(target.double(), donor.double(), mask, guidance=guidance, region=region)
    assert result.dtype == torch.float64
    expected = batch_reference(target, donor, mask, guidance=guidance, region=region)
    assert (result - expected).abs().max() < (1e-12 if region == "rectangle" else 1e-5)


@OPTIONS
def test_non_contiguous_inputs_give_the_same(region, guidance):
    target, donor, mask = example()
    expected = poisson_blend(target, donor, mask, guidance=guidance, region=region)
    strided = [x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in (target, donor, mask)]
    assert not any(x.is_contiguous() for x in strided)
    assert (poisson_blend(*strided, guidance=guidance, region=region) - expected).abs().max() < 1e-6
    expanded = (target[:, :1].expand(-1, 3, -1, -1), donor[:, :1].expand(-1, 3, -1, -1), mask)
    result = poisson_blend(*expanded, guidance=guidance, region=region)
    assert (
        result
        - poisson_blend(*(x.contiguous() for x in expanded), guidance=guidance, region=region)
    ).abs().max() < 1e-6


@OPTIONS
def test_autocast_does_not_cost_precision(region, guidance):
    target, donor, mask = example(kind="blob")
    expected = poisson_blend(target, donor, mask, guidance=guidance, region=region)
    with torch.autocast("cpu", torch.bfloat16):
        result = poisson_blend(target, donor, mask, guidance=guidance, region=region)
    assert (result - expected).abs().max() < 1e-5


def test_mask_donor_agrees_with_opencv_inside_a_smooth_image():
    # A donor that differs from the target by a constant and a bump well inside the mask: nothing
    # hangs on how OpenCV erodes the mask or on its solving a rectangle around it.
    y, x = np.mgrid[:64, :64].astype(np.float64)
    target = 90 + 0.8 * x + 0.4 * y + 8 * np.sin(x / 9)
    distance = np.hypot(x - 32, y - 32)
    donor = target + 40 - 50 * np.exp(-((distance / 5) ** 2))
    mask = distance <= 20
    assert min(target.min(), donor.min()) >= 0 and max(target.max(), donor.max()) <= 255
    three = [np.repeat(a.round().astype(np.uint8)[..., None], 3, axis=2) for a in (target, donor)]
    theirs = cv2.seamlessClone(
        three[1], three[0], np.uint8(255) * mask, (32, 32), cv2.NORMAL_CLONE
    )[..., 0]
    images = (torch.from_numpy(a[..., 0].astype(np.float32) / 255)[None, None] for a in three)
    ours = (
        poisson_blend(*images, torch.from_numpy(mask)[None], guidance="donor", region="mask")[0, 0]
        * 255
    )
    assert (
        np.abs(ours.numpy() - (donor - 40)).max() < 3
    )  # the known answer, but for rounding to 8 bits
    assert np.abs(ours.numpy() - theirs.astype(float)).max() < 3


def test_without_ring_clears_only_the_ring_of_a_copy():
    mask = torch.ones(2, 4, 5, dtype=torch.bool)
    inner = without_ring(mask)
    assert mask.all()
    assert inner.sum((1, 2)).tolist() == [6, 6]
    assert inner[:, 1:-1, 1:-1].all()


@settings(max_examples=2 * settings.default.max_examples)
@given(
    shape=st.tuples(*[st.integers(0, 3), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)]),
    dtype=st.sampled_from([torch.uint8, torch.float32, torch.float64, torch.int16]),
    seed=st.integers(0, 2**31),
)
def test_cut_paste_is_the_donor_inside_and_the_target_outside(shape, dtype, seed):
    g = torch.Generator().manual_seed(seed)
    target, donor = ((torch.rand(shape, generator=g) * 255).to(dtype) for _ in range(2))
    mask = torch.rand(shape[0], *shape[2:], generator=g) < 0.5
    result = cut_paste(target, donor, mask)
    wide = mask[:, None].expand(shape)
    assert result.dtype == dtype and result.shape == shape
    assert torch.equal(result[wide], donor[wide])
    assert torch.equal(result[~wide], target[~wide])


@pytest.mark.parametrize("blend", [cut_paste, poisson_blend])
@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t, d, m: (t[0], d[0], m), r"\(B, C, H, W\)"),
        (lambda t, d, m: (t, d[..., :-1], m), r"share a shape.*\(2, 3, 16, 18\)"),
        (lambda t, d, m: (t, d[:1], m), "share a shape"),
        (lambda t, d, m: (t, d[:, :1], m), "share a shape"),
        (lambda t, d, m: (t, d.double(), m), "share a dtype.*float64"),
        (lambda t, d, m: (t, d, m.byte()), "mask must be bool.*uint8"),
        (lambda t, d, m: (t, d, m[:, None]), r"mask must be bool.*\(2, 1, 16, 19\)"),
        (lambda t, d, m: (t, d, m[:1]), "mask must be bool"),
        (lambda t, d, m: (t, d, m[..., :-1]), "mask must be bool"),
    ],
)
def test_wrong_shapes_and_dtypes_raise(blend, change, message):
    with pytest.raises(ValueError, match=message):
        blend(*change(*example()))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t, d, m: (t + np.nan, d, m), "target and donor must be finite"),
        (lambda t, d, m: (t, d + np.inf, m), "target and donor must be finite"),
        (lambda t, d, m: (t, d.to("meta"), m), "must be on one device: target cpu, donor meta"),
    ],
)
def test_values_that_are_not_finite_and_two_devices_are_refused(change, message):
    refused(lambda: poisson_blend(*change(*example())), message)


def test_wrong_options_and_integer_images_raise():
    target, donor, mask = example()
    with pytest.raises(ValueError, match=r"guidance.*'both'"):
        poisson_blend(target, donor, mask, guidance="both")
    with pytest.raises(ValueError, match=r"region.*'disk'"):
        poisson_blend(target, donor, mask, region="disk")
    with pytest.raises(ValueError, match=r"float images.*uint8"):
        poisson_blend(target.byte(), donor.byte(), mask)


def test_blend_after_an_injection_has_gradients(toy):
    inject = DynamicLabelInjection(toy, p_poisson=1.0, generator=torch.Generator().manual_seed(0))
    inject(
        toy.images[:4].float() / 255, toy.masks[:4], toy.labels[:4]
    )  # keeps the solver's matrices
    target = torch.rand(1, 1, 64, 64, requires_grad=True)
    poisson_blend(
        target, torch.rand(1, 1, 64, 64), torch.ones(1, 64, 64, dtype=torch.bool)
    ).sum().backward()
    assert target.grad.isfinite().all()


@OPTIONS
@pytest.mark.parametrize("sides", [(9, 8), (2, 8)])
def test_what_changes_nothing_has_gradients_all_the_same(region, guidance, sides):
    target, donor = (torch.rand(2, 1, *sides, requires_grad=k > 0) for k in (0, 1))
    mask = torch.zeros(2, *sides, dtype=torch.bool)
    poisson_blend(target, donor, mask, region=region, guidance=guidance).sum().backward()
    assert torch.equal(donor.grad, torch.zeros_like(donor))


@OPTIONS
@pytest.mark.parametrize("side", [12, 200])
def test_derivatives_forwards_are_those_backwards(region, guidance, side):
    target, donor = (torch.rand(1, 1, side, side, dtype=torch.float64) for _ in range(2))
    mask = torch.zeros(1, side, side, dtype=torch.bool)
    mask[:, 4:8, 3:9] = True
    donor.requires_grad_()

    def blend(pixels):
        blended = poisson_blend(target, pixels, mask, region=region, guidance=guidance)
        return blended[0, 0, 5, 4:8]

    tangent = torch.rand_like(donor)
    _, forwards = torch.autograd.functional.jvp(blend, donor, tangent)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(donor, tangent)
        real = torch.autograd.forward_ad.unpack_dual(blend(dual)).tangent
    assert (forwards - real).abs().max() < 1e-6
    if region == "rectangle":
        one_by_one = torch.autograd.functional.jacobian(blend, donor)
        at_once = torch.autograd.functional.jacobian(blend, donor, vectorize=True)
        assert (one_by_one - at_once).abs().max() < 1e-9


@pytest.mark.parametrize("guidance", GUIDANCES)
def test_autocast_does_not_reach_the_gradient_of_the_mask_solver(guidance):
    target, donor, mask = example(kind="blob")
    gradients = []
    for low in (False, True):
        pixels = donor.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            blended = poisson_blend(target, pixels, mask, region="mask", guidance=guidance)
            (blended**2).sum().backward()
        gradients.append(pixels.grad)
    assert (gradients[0] - gradients[1]).abs().max() < 1e-5


@OPTIONS
def test_no_channels_are_returned(region, guidance):
    none = torch.zeros(2, 0, 9, 8)
    mask = torch.ones(2, 9, 8, dtype=torch.bool)
    assert poisson_blend(none, none, mask, region=region, guidance=guidance).shape == none.shape


@OPTIONS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_solved_in_float32_and_rounded_once(region, guidance, dtype):
    target, donor, mask = (
        x if x.dtype == torch.bool else x.to(dtype) for x in example(kind="blob")
    )
    how = {"guidance": guidance, "region": region}
    exact = poisson_blend(target.float(), donor.float(), mask, **how)
    found = poisson_blend(target, donor, mask, **how)
    assert found.dtype == dtype and torch.equal(found, exact.to(dtype))


def test_a_large_half_precision_batch_is_finite_though_its_sum_is_not():
    white = torch.ones(16, 1, 128, 128, dtype=torch.float16)
    assert not white.sum().isfinite()
    mask = torch.ones(16, 128, 128, dtype=torch.bool)
    assert torch.equal(poisson_blend(white, white, mask), white)


@OPTIONS
def test_gradients_are_those_of_finite_differences(region, guidance, monkeypatch):
    monkeypatch.setattr("dlilib.multigrid.TOLERANCE", 1e-12)
    g = torch.Generator().manual_seed(0)
    target, donor = (
        torch.rand(2, 1, 7, 8, dtype=torch.float64, generator=g, requires_grad=True)
        for _ in range(2)
    )
    mask = torch.zeros(2, 7, 8, dtype=torch.bool)
    mask[:, 2:5, 2:6] = mask[1, 0] = True

    def blend(target, donor):
        return poisson_blend(target, donor, mask, guidance=guidance, region=region)

    assert torch.autograd.gradcheck(blend, (target, donor))


def test_options_that_are_lists_are_refused_in_words():
    with pytest.raises(ValueError, match=r"guidance must be one of.*\['mixed'\]"):
        poisson_blend(*example(), guidance=["mixed"])
    with pytest.raises(TypeError, match="positional"):
        poisson_blend(*example(), "mixed")
