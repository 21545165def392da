import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from dlilib import plan_classes
from dlilib.augment import Warp
from dlilib.balance import DonorBank, plan

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
    planned = plan_classes(np.array(labels, np.int64), k, until, "random", generator).tolist()
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


def same(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in vars(a))


def test_bank_holds_the_given_defective_images_by_class_and_the_released_warps(toy):
    donors = donors_of(toy, 3)
    bank = DonorBank.of(toy, donors)
    assert [m.tolist() for m in bank.members] == donors[:15].reshape(5, 3).tolist()
    everything = DonorBank.of(toy)
    assert [len(m) for m in everything.members] == [29, 21, 14, 8, 26]
    blowhole, break_, crack, fray, uneven = bank.warps
    assert blowhole == Warp(flip=0.5, affine=0.5, shift=0.0625, scale=0.1, rotate=10.0)
    assert break_ == fray == uneven and break_.affine == 0 and break_.flip == 0.5
    assert (crack.flip, crack.affine, crack.rotate) == (0, 0.5, 5)
    mine = DonorBank.of(toy, donors, warps={"Break": Warp(flip=1.0)}).warps
    assert mine == (Warp(), Warp(flip=1.0), Warp(), Warp(), Warp())


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, list])
@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_donors_may_be_any_kind_of_integers(toy, kind, dtype):
    donors = donors_of(toy, 3).numpy().astype(dtype)
    banks = DonorBank.of(toy, kind(donors)), DonorBank.of(toy, torch.from_numpy(donors).long())
    assert same(*(plan(np.zeros(12, int), bank, generator=generator()) for bank in banks))


def test_class_without_donor_raises_naming_it(toy):
    donors = donors_of(toy, 3)
    with pytest.raises(ValueError, match="Crack has no donor among the 22"):
        DonorBank.of(toy, donors[toy.labels[donors] != 3])
    with pytest.raises(ValueError, match="Blowhole has no donor among the 0"):
        DonorBank.of(toy, [])


@pytest.mark.parametrize("index", [-1, 336])
def test_donor_that_is_no_index_raises(toy, index):
    with pytest.raises(ValueError, match=f"336 tiles.*{index}"):
        DonorBank.of(toy, np.append(donors_of(toy, 3), index))


@pytest.mark.parametrize(
    "wrong",
    [lambda toy: toy.labels > 0, lambda toy: [0.5, 1.5], lambda toy: [[250, 251]], lambda toy: 250],
)
def test_donors_that_are_no_row_of_integers_raise(toy, wrong):
    with pytest.raises(ValueError, match="donors must"):
        DonorBank.of(toy, wrong(toy))


@pytest.mark.parametrize("replacement", [False, True])
def test_donors_are_given_ones_of_the_planned_class(toy, replacement):
    given_donors = donors_of(toy, 4)
    bank = DonorBank.of(toy, given_donors)
    labels = np.array([0, 3, 0, 0, 5, 0, 0, 0, 0, 1, 0, 0])
    for seed in range(20):
        drawn = plan(labels, bank, replacement=replacement, generator=generator(seed))
        assert drawn.target.tolist() == np.flatnonzero(labels == 0).tolist()
        assert drawn.label.tolist() == plan_classes(labels, 5)[labels == 0].tolist()
        assert torch.equal(toy.labels[drawn.donor], drawn.label)
        assert torch.isin(drawn.donor, given_donors).all()
        assert drawn.maps.shape == (len(drawn), 2, 3) and drawn.poisson.dtype == torch.bool


def test_without_replacement_as_long_as_there_are_enough_donors(toy):
    bank = DonorBank.of(toy, donors_of(toy, 4))
    exact = plan(np.zeros(20, int), bank, generator=generator())  # four of each class
    assert sorted(exact.donor.tolist()) == sorted(torch.cat(bank.members).tolist())
    too_few = plan(np.zeros(25, int), bank, generator=generator())
    assert torch.equal(toy.labels[too_few.donor], too_few.label)
    assert len(set(too_few.donor.tolist())) <= 20


def test_replacement_draws_a_donor_again(toy):
    bank = DonorBank.of(toy, donors_of(toy, 4))
    for seed in range(5):
        drawn = plan(np.zeros(20, int), bank, replacement=True, generator=generator(seed))
        assert len(set(drawn.donor.tolist())) < 20


def test_every_donor_is_drawn_equally_often(toy):
    bank = DonorBank.of(toy, donors_of(toy, 4))
    g = generator()
    for replacement in (False, True):
        drawn = [
            plan([0] * 10, bank, replacement=replacement, generator=g).donor for _ in range(400)
        ]
        times = torch.bincount(torch.cat(drawn))[torch.cat(bank.members)]
        assert (
            times.sum() == 4000 and times.min() > 140 and times.max() < 260
        )  # 200 each, standard deviation 14


def test_seed_fixes_the_plan_and_no_global_generator_is_used(toy):
    bank = DonorBank.of(toy)
    labels = torch.zeros(30, dtype=torch.int64)
    before = torch.random.get_rng_state()
    first, again, other = (plan(labels, bank, generator=generator(s)) for s in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert same(first, again)
    for name in ("donor", "maps", "poisson"):
        assert not torch.equal(getattr(first, name), getattr(other, name)), name
    g = generator(3)
    assert not same(plan(labels, bank, generator=g), plan(labels, bank, generator=g))


def test_without_generator_torchs_default_one_decides(toy):
    bank = DonorBank.of(toy)
    with torch.random.fork_rng(devices=[]):
        plans = []
        for _ in range(2):
            torch.manual_seed(5)
            plans.append(plan(np.zeros(9, int), bank))
    assert same(*plans)


def test_p_poisson_decides_on_the_blend_and_nothing_else(toy):
    bank = DonorBank.of(toy)
    none, half, every = (
        plan(np.zeros(64, int), bank, p, generator=generator()) for p in (0, 0.5, 1)
    )
    assert not none.poisson.any() and every.poisson.all()
    assert 16 < half.poisson.sum() < 48
    for name in ("target", "label", "donor", "maps"):
        assert torch.equal(getattr(none, name), getattr(half, name))
        assert torch.equal(getattr(none, name), getattr(every, name))


def test_batch_without_free_images_gives_an_empty_plan(toy):
    drawn = plan(torch.tensor([1, 2, 3]), DonorBank.of(toy), generator=generator())
    assert len(drawn) == 0 and drawn.maps.shape == (0, 2, 3) and drawn.donor.dtype == torch.int64


def test_unknown_ties_are_refused_by_name():
    with pytest.raises(ValueError, match=r"ties must be one of.*'highest'"):
        plan_classes(np.array([0]), 3, ties="highest")
