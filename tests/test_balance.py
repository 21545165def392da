import copy
import functools
import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from dlilib import DynamicLabelInjection, TileSet, plan_classes
from dlilib.augment import Warp
from dlilib.balance import REPLACEMENT, Filling, Plan

BATCHES = st.integers(1, 8).flatmap(
    lambda k: st.tuples(st.lists(st.one_of(st.just(0), st.integers(0, k)), max_size=48), st.just(k))
)
# Ten times the profile's examples: a thousand, and a hundred in the fast tier.
THOUSAND = settings(max_examples=10 * settings.default.max_examples)


def one_at_a_time(labels, num_classes, until):
    """The algorithm again, with Counter-like lists: no numpy, no argmin."""
    have = [sum(1 for label in labels if label == c) for c in range(1, num_classes + 1)]
    planned = []
    for label in labels:
        stop = until == "uniform" and len(set(have)) == 1
        if label != 0 or stop:
            planned.append(0)
            continue
        rarest = sorted(range(num_classes), key=lambda c: (have[c], c))[0]
        have[rarest] += 1
        planned.append(rarest + 1)
    return planned


def final_counts(labels, planned, num_classes):
    return np.bincount(np.asarray(labels) + planned, minlength=num_classes + 1)[1:]


@THOUSAND
@given(BATCHES)
def test_filled_fills_every_free_image_and_levels_the_classes(batch):
    labels, k = batch
    planned = plan_classes(np.array(labels, np.int64), k)
    assert planned.dtype == np.int64 and planned.shape == (len(labels),)
    assert (
        (planned > 0) == (np.array(labels, int) == 0)
    ).all()  # each free one, and no defective one
    counts = final_counts(np.array(labels, int), planned, k)
    received = np.unique(planned[planned > 0])
    assert (counts[received - 1] <= counts.min() + 1).all()


@THOUSAND
@given(BATCHES, st.sampled_from(["filled", "uniform"]))
def test_agrees_with_an_independent_greedy_fill(batch, until):
    labels, k = batch
    assert plan_classes(np.array(labels, np.int64), k, until).tolist() == one_at_a_time(
        labels, k, until
    )


@THOUSAND
@given(BATCHES, st.sampled_from(["filled", "uniform"]), st.integers(0, 99))
def test_random_ties_go_to_a_rarest_class_and_differ_in_nothing_else(batch, until, seed):
    labels, k = batch
    generator = torch.Generator().manual_seed(seed)
    planned = plan_classes(
        np.array(labels, np.int64), k, until, ties="random", generator=generator
    ).tolist()
    have = [labels.count(c) for c in range(1, k + 1)]
    for label in planned:
        if label:
            assert have[label - 1] == min(have)
            have[label - 1] += 1
    lowest = plan_classes(np.array(labels, np.int64), k, until).tolist()
    assert [label > 0 for label in planned] == [label > 0 for label in lowest]


def test_random_ties_give_every_class_its_share_of_small_batches():
    batches, size, k = 2000, 3, 5
    labels, generator = np.zeros(size, np.int64), torch.Generator().manual_seed(0)
    drawn = np.concatenate(
        [plan_classes(labels, k, ties="random", generator=generator) for _ in range(batches)]
    )
    assert chisquare(np.bincount(drawn, minlength=k + 1)[1:]).pvalue > 0.01
    assert plan_classes(labels, k).tolist() == [
        1,
        2,
        3,
    ]  # "lowest", as released: the last two get nothing


@THOUSAND
@given(BATCHES)
def test_uniform_is_the_shortest_prefix_of_filled_with_equal_counts(batch):
    labels, k = np.array(batch[0], np.int64), batch[1]
    filled, uniform = (plan_classes(labels, k, until) for until in ("filled", "uniform"))
    order = np.flatnonzero(filled)
    prefixes = [
        np.where(np.isin(np.arange(len(labels)), order[:n]), filled, 0)
        for n in range(len(order) + 1)
    ]
    level = [n for n, p in enumerate(prefixes) if len(set(final_counts(labels, p, k))) == 1]
    expected = prefixes[level[0]] if level else filled
    assert uniform.tolist() == expected.tolist()


@pytest.mark.parametrize(
    "labels, k, until, expected",
    [
        ([0, 0, 0, 0], 3, "filled", [1, 2, 3, 1]),  # ties: the lowest class
        ([1, 0, 0, 2, 0], 3, "filled", [0, 3, 1, 0, 2]),
        ([1, 1, 1, 0, 0, 0], 2, "filled", [0, 0, 0, 2, 2, 2]),
        ([2, 0, 2, 0, 3, 0, 0], 3, "filled", [0, 1, 0, 1, 0, 3, 1]),
        ([0, 0, 0], 1, "filled", [1, 1, 1]),
        ([1, 2, 3], 3, "filled", [0, 0, 0]),  # nothing free
        ([], 3, "filled", []),
        (
            [0, 0, 0, 0],
            3,
            "uniform",
            [0, 0, 0, 0],
        ),  # nothing there: all classes are equally frequent
        ([1, 0, 0, 0], 2, "uniform", [0, 2, 0, 0]),
        ([1, 2, 0, 3, 0], 3, "uniform", [0, 0, 0, 0, 0]),
        ([1, 1, 0, 0, 0], 3, "uniform", [0, 0, 2, 3, 2]),  # too few free images
        ([0, 1, 0], 1, "uniform", [0, 0, 0]),  # one class is always uniform
    ],
)
def test_small_batches_by_hand(labels, k, until, expected):
    assert plan_classes(np.array(labels, np.int64), k, until).tolist() == expected


def test_list_array_and_tensor_give_the_same_in_kind():
    labels = [0, 1, 0, 2, 0]
    from_list, from_array = plan_classes(labels, 2), plan_classes(np.array(labels, np.uint8), 2)
    assert isinstance(from_list, np.ndarray) and isinstance(from_array, np.ndarray)
    for dtype in (torch.int64, torch.int32, torch.uint8):
        from_tensor = plan_classes(torch.tensor(labels, dtype=dtype), 2)
        assert isinstance(from_tensor, torch.Tensor) and from_tensor.dtype == torch.int64
        assert from_tensor.tolist() == from_array.tolist() == from_list.tolist() == [1, 0, 2, 0, 1]


def test_labels_are_not_changed():
    labels = torch.tensor([0, 1, 0])
    plan_classes(labels, 2)
    assert labels.tolist() == [0, 1, 0]


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
@pytest.mark.parametrize(
    "labels, k, until, message",
    [
        ([0, -1], 3, "filled", r"0\.\.3, got -1"),
        ([0, 4], 3, "filled", r"0\.\.3, got 0\.\.4"),
        ([0.0, 1.0], 3, "filled", "integers.*float"),
        ([True, False], 3, "filled", "integers.*bool"),
        ([[0, 1]], 3, "filled", r"\(B,\), got .*\(1, 2\)"),
        (0, 3, "filled", r"\(B,\)"),
        ([0, 0], 3, "full", "until must be one of.*'full'"),
        ([0, 0], 0, "filled", "num_classes must be at least 1, got 0"),
    ],
)
def test_wrong_labels_and_options_raise(kind, labels, k, until, message):
    with pytest.raises(ValueError, match=message):
        plan_classes(kind(labels), k, until)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def donors_of(toy, per_class):
    """The first `per_class` images of each class, and ten free ones."""
    groups = [(toy.labels == c).nonzero()[:per_class, 0] for c in range(1, 6)]
    return torch.cat([*groups, (toy.labels == 0).nonzero()[:10, 0]])


def planning(tiles, donors=None, seed=0, **options):
    return DynamicLabelInjection(tiles, donors, generator=generator(seed), **options)


def of_sides(height, width):
    """A defect-free image, and one that is all defect."""
    masks = torch.zeros(2, height, width, dtype=torch.uint8)
    masks[1] = 1
    images = torch.zeros_like(masks)[:, None] + 90
    images[1, 0, ::3] = 150
    return TileSet.from_arrays(images, masks, ["defect"])


def test_rotations_of_plans_turn_pixels_without_shear():
    turn = Warp(flip=0.0, affine=1.0, shift=0.0, scale=0.0, rotate=40.0)
    tiles = of_sides(20, 50)
    maps = planning(tiles, warps={"defect": turn}).plan(np.zeros(5, int)).maps
    half = torch.tensor([49 / 2, 19 / 2])  # of x and y
    pixels = half[:, None] * maps[:, :, :2] / half
    assert torch.allclose(pixels @ pixels.mT, torch.eye(2).expand(5, 2, 2), atol=1e-5)
    assert (pixels[:, 0, 1].abs() > 0.01).all()


@pytest.mark.parametrize("sides", [(20, 50), (50, 20)])
def test_widened_defects_leave_the_ring_of_an_oblong_image_clear(sides):
    tiles = of_sides(*sides)
    still = {"defect": Warp(flip=0.0, affine=0.0)}
    inject = planning(tiles, warps=still, p_poisson=1.0)
    masks = inject(tiles.images[:1], tiles.masks[:1], tiles.labels[:1])[1][0]
    last, most = sides[0] - 1, sides[1] - 1
    assert not masks[[0, last]].any() and not masks[:, [0, most]].any()
    assert masks[1:last, 1:most].all()


def test_a_short_supply_is_gone_through_again_or_drawn_from_as_released():
    masks = torch.ones(5, 16, 16, dtype=torch.uint8)
    masks[0] = 0
    tiles = TileSet.from_arrays(torch.rand(5, 1, 16, 16), masks, ["defect"])
    times = {
        replacement: np.bincount(
            planning(tiles, replacement=replacement).plan(np.zeros(40, int)).donor, minlength=5
        )
        for replacement in (False, "if short")
    }
    assert times[False].tolist() == [0, 10, 10, 10, 10]
    assert times["if short"].tolist() != times[False].tolist()
    assert DynamicLabelInjection.as_released(tiles).replacement == "if short"


@pytest.mark.parametrize("replacement", REPLACEMENT)
def test_donors_are_given_ones_of_the_planned_class(toy, replacement):
    given_donors = donors_of(toy, 4)
    labels = np.array([0, 3, 0, 0, 5, 0, 0, 0, 0, 1, 0, 0])
    for seed in range(20):
        drawn = planning(toy, given_donors, seed, replacement=replacement, ties="lowest").plan(
            labels
        )
        assert drawn.target.tolist() == np.flatnonzero(labels == 0).tolist()
        assert drawn.label.tolist() == plan_classes(labels, 5)[labels == 0].tolist()
        assert torch.equal(toy.labels[drawn.donor], drawn.label)
        assert torch.isin(drawn.donor, given_donors).all()
        assert drawn.maps.shape == (len(drawn), 2, 3) and drawn.poisson.dtype == torch.bool


def test_without_replacement_as_long_as_there_are_enough_donors(toy):
    donors = donors_of(toy, 4)
    for replacement in (False, "if short"):
        four_each = planning(toy, donors, replacement=replacement).plan(np.zeros(20, int))
        assert sorted(four_each.donor.tolist()) == sorted(donors[:20].tolist())
        short = planning(toy, donors, replacement=replacement).plan(np.zeros(25, int))
        assert torch.equal(toy.labels[short.donor], short.label)
        assert len(set(short.donor.tolist())) <= 20


@given(wanted=st.integers(1, 60), seed=st.integers(0, 99))
def test_all_donors_of_a_class_come_before_any_is_repeated(small_toy, wanted, seed):
    crack = (small_toy.labels == 3).nonzero()[:4, 0]
    target = {name: float(name == "Crack") for name in small_toy.classes}
    drawn = planning(small_toy, crack, seed, target=target).plan(np.zeros(wanted, int)).donor
    times = [int((drawn == donor).sum()) for donor in crack]
    assert max(times) - min(times) <= 1 and sum(times) == wanted


def test_replacement_draws_a_donor_again(toy):
    for seed in range(5):
        drawn = planning(toy, donors_of(toy, 4), seed, replacement=True).plan(np.zeros(20, int))
        assert len(set(drawn.donor.tolist())) < 20


def test_every_donor_is_drawn_equally_often(toy):
    donors = donors_of(toy, 4)
    for replacement in REPLACEMENT:
        transform = planning(toy, donors, replacement=replacement)
        drawn = [transform.plan([0] * 10).donor for _ in range(400)]
        times = torch.bincount(torch.cat(drawn))[donors[:20]]
        assert times.sum() == 4000
        assert times.min() > 140 and times.max() < 260  # 200 each, standard deviation 14


def test_seed_fixes_the_plan_and_no_global_generator_is_used(toy):
    labels = torch.zeros(30, dtype=torch.int64)
    before = torch.random.get_rng_state()
    first, again, other = (planning(toy, seed=s).plan(labels) for s in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first == again
    for name in ("donor", "maps", "poisson"):
        assert not torch.equal(getattr(first, name), getattr(other, name)), name
    transform = planning(toy, seed=3)
    assert transform.plan(labels) != transform.plan(labels)


def test_without_generator_torchs_default_one_decides(toy):
    transform = DynamicLabelInjection(toy)
    with torch.random.fork_rng(devices=[]):
        plans = []
        for _ in range(2):
            torch.manual_seed(5)
            plans.append(transform.plan(np.zeros(9, int)))
    assert plans[0] == plans[1]


@pytest.fixture
def strange_defaults():
    """Another default dtype and device, as somebody's program may have set them."""
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "options", [{}, {"place": "anywhere", "share": 0.5}, {"ties": "lowest", "replacement": True}]
)
def test_defaults_of_torch_change_no_plan_and_no_pixel(toy, options, request):
    batch = toy.images[:9].float() / 255, toy.masks[:9], toy.labels[:9]
    expected = planning(toy, **options).plan(batch[2])
    pixels = planning(toy, **options)(*batch)
    request.getfixturevalue("strange_defaults")
    assert planning(toy, **options).plan(batch[2]) == expected
    found = planning(toy, **options)(*batch)
    assert all(torch.equal(a, b) for a, b in zip(found, pixels, strict=True))


def test_p_poisson_decides_on_the_blend_and_nothing_else(toy):
    none, half, every = (planning(toy, p_poisson=p).plan(np.zeros(64, int)) for p in (0, 0.5, 1))
    assert not none.poisson.any() and every.poisson.all()
    assert 16 < half.poisson.sum() < 48
    for name in ("target", "label", "donor", "maps"):
        assert torch.equal(getattr(none, name), getattr(half, name))
        assert torch.equal(getattr(none, name), getattr(every, name))


def test_batch_without_free_images_gives_an_empty_plan(toy):
    drawn = planning(toy).plan(torch.tensor([1, 2, 3]))
    assert len(drawn) == 0 and drawn.maps.shape == (0, 2, 3) and drawn.donor.dtype == torch.int64


def test_unknown_ties_are_refused_by_name():
    with pytest.raises(ValueError, match=r"ties must be one of.*'highest'"):
        plan_classes(np.array([0]), 3, ties="highest")


def test_plan_goes_through_json(toy):
    for options in ({}, {"place": "anywhere"}):
        drawn = planning(toy, **options).plan(torch.tensor([0, 1, 0, 0, 5]))
        again = Plan.from_dict(json.loads(json.dumps(drawn.to_dict())))
        assert again == drawn and again.maps.dtype == torch.float32 and again.sides == (64, 64)
        assert again != planning(toy, seed=1, **options).plan(torch.tensor([0, 1, 0, 0, 5]))
    empty = planning(toy).plan(torch.tensor([1]))
    assert Plan.from_dict(json.loads(json.dumps(empty.to_dict()))) == empty
    with pytest.raises(ValueError, match="a plan has the values"):
        Plan.from_dict({"target": [1]})
    with pytest.raises(ValueError, match="must be of one length"):
        Plan.from_dict({**drawn.to_dict(), "label": [1]})


# --- which classes, over many batches


def injected(labels, batches=2000, num_classes=5, **options):
    """How often each class is injected into batches with these labels: (K,)."""
    filling = Filling(
        **{"until": "filled", "ties": "random", "share": 1.0, "target": (1.0,) * num_classes}
        | options
    )
    g, none = generator(), np.zeros(num_classes, np.int64)
    drawn = np.concatenate([filling.fill(np.array(labels), none, g) for _ in range(batches)])
    return np.bincount(drawn, minlength=num_classes + 1)[1:]


def exact_shares(labels, num_classes):
    """What Algorithm 1 with alike ties gives on average, by going through all its choices: (K,)."""

    @functools.cache
    def expected(counts, free):
        if not free:
            return (Fraction(0),) * num_classes
        rarest = [k for k, count in enumerate(counts) if count == min(counts)]
        total = [Fraction(0)] * num_classes
        for k in rarest:
            after = expected((*counts[:k], counts[k] + 1, *counts[k + 1 :]), free - 1)
            for j in range(num_classes):
                total[j] += (after[j] + (j == k)) / len(rarest)
        return tuple(total)

    counts = tuple(labels.count(c) for c in range(1, num_classes + 1))
    return np.array([float(x) for x in expected(counts, labels.count(0))])


@pytest.mark.parametrize("size", range(1, 13))
def test_shares_of_injected_classes_are_those_of_algorithm_1(size):
    """Batches of any size: all free, and with one or two defective images."""
    for defective in ([], [2], [1, 5])[: size + 1]:
        labels = [*defective, *[0] * (size - len(defective))]
        if labels.count(0):
            expected = exact_shares(labels, 5)
            seen = injected(labels)
            drawn = expected > 0
            assert (seen[~drawn] == 0).all()
            assert chisquare(seen[drawn], expected[drawn] * 2000).pvalue > 1e-3


def test_forty_classes_and_sixteen_free_images_starve_none():
    seen = injected([0] * 16, num_classes=40)
    assert chisquare(seen).pvalue > 1e-3
    assert (injected([0] * 16, batches=5, num_classes=40, ties="lowest")[16:] == 0).all()


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 16, 64])
@pytest.mark.parametrize("target", [(6.0, 3.0, 1.0, 0.0), (100.0, 1.0, 1.0, 1.0), (2.0, 1.0)])
def test_target_shares_are_met_by_batches_of_any_size(size, target):
    seen = injected([0] * size, num_classes=len(target), target=target)
    wanted = np.array(target) / sum(target)
    assert (seen[wanted == 0] == 0).all()
    assert np.abs(seen / seen.sum() - wanted).max() < 0.03


def test_target_fills_up_what_is_there():
    """Three of the first class are already more than its half of four: all goes to the second."""
    assert injected([1, 1, 1, 0], batches=50, num_classes=2, target=(2.0, 1.9)).tolist() == [0, 50]
    seen = injected([1, 0, 0], num_classes=2, target=(2.0, 1.0))  # 2 : 1, one is there
    assert seen.tolist() == [2000, 2000]


@given(
    counts=st.lists(st.integers(0, 9), min_size=3, max_size=3),
    number=st.integers(0, 40),
    ties=st.sampled_from(["lowest", "random"]),
    until=st.sampled_from(["filled", "uniform"]),
)
def test_target_lets_no_class_that_receives_rise_above_another(counts, number, ties, until):
    target = np.array([3.0, 2.0, 0.5])
    labels = np.array([*np.repeat([1, 2, 3], counts), *[0] * number], dtype=np.int64)
    filling = Filling(until, ties, 1.0, tuple(target))
    planned = filling.fill(labels, np.zeros(3, np.int64), generator())
    assert (planned > 0).sum() == number or until == "uniform"
    after = np.bincount(labels + planned, minlength=4)[1:]
    lowest = ((after + 1) / target).min()  # where one more would leave the lowest
    received = np.unique(planned[planned > 0]) - 1
    assert ((after[received] - 1) / target[received] <= lowest + 1e-9).all()


def test_target_in_one_large_batch_levels_counts_in_proportion():
    labels = np.array([1] * 7 + [3] * 2 + [0] * 51)
    filling = Filling("filled", "random", 1.0, (2.0, 1.0, 3.0))
    after = labels + filling.fill(labels, np.zeros(3, np.int64), generator())
    assert np.bincount(after, minlength=4).tolist() == [0, 20, 10, 30]
    uniform = Filling("uniform", "random", 1.0, (2.0, 1.0, 3.0))
    after = labels + uniform.fill(labels, np.zeros(3, np.int64), generator())
    dents, scratches, stains = np.bincount(after, minlength=4)[1:]
    assert dents == 7 and scratches in (3, 4) and scratches + stains == 14  # of 7 : 3.5 : 10.5


@given(
    size=st.integers(1, 64),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
    ties=st.sampled_from(["lowest", "random"]),
)
def test_share_of_the_free_images_is_filled(size, share, seed, ties):
    filling = Filling("filled", ties, share, (1.0,) * 3)
    labels = np.array([0, 0, 1] * size)[:size]
    planned = filling.fill(labels, np.zeros(3, np.int64), generator(seed))
    wanted = share * (labels == 0).sum()
    assert math.floor(wanted) <= (planned > 0).sum() <= math.ceil(wanted)
    assert not planned[labels > 0].any()


def test_share_holds_on_average_and_every_free_image_has_its_chance():
    filling = Filling("filled", "random", 0.3, (1.0, 1.0))
    g, labels, none = generator(), np.array([0, 1, 0, 0]), np.zeros(2, np.int64)
    filled = np.array([filling.fill(labels, none, g) > 0 for _ in range(4000)]).mean(axis=0)
    assert filled[1] == 0 and np.abs(filled[[0, 2, 3]] - 0.3).max() < 0.03


def test_running_state_balances_batches_that_are_too_small(toy):
    labels = [torch.tensor([0, label]) for label in [1, 1, 2, 1, 5, 1, 1, 2] * 20]
    counts = {}
    for state in ("batch", "running"):
        transform = planning(toy, state=state, ties="lowest")
        after = torch.cat([batch.clone() for batch in labels])
        plans = [transform.plan(batch) for batch in labels]
        after[0::2] = torch.cat([plan.label for plan in plans])
        counts[state] = torch.bincount(after, minlength=6)[1:]
    assert counts["running"][0] == 100  # as they came: none was injected
    assert counts["running"][1:].max() - counts["running"][1:].min() <= 2
    assert counts["batch"][2:4].sum() == 0  # neither Crack nor Fray, ever


def test_running_state_is_one_stream_and_can_be_forgotten(toy):
    labels = torch.tensor([0, 1, 0, 0, 2, 0, 0, 0])
    one, another = (planning(toy, state="running", ties="lowest") for _ in range(2))
    together = one.plan_batches(labels, [3, 5])
    apart = [another.plan(labels[:3]), another.plan(labels[3:])]
    assert [p.label.tolist() for p in together] == [p.label.tolist() for p in apart]
    assert one.carried.sum() == 8
    twin = copy.copy(one)
    twin.plan(labels)
    assert one.carried.sum() == 8 and twin.carried.sum() == 16
    one.reset()
    assert one.carried.tolist() == [0] * 5
