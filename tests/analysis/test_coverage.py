import numpy as np
import pytest

from dlilib.analysis.coverage import STUDENTS, WIDER, coverage
from dlilib.analysis.stats import Pair

OTHER, SAME = "other parts each seed", "the same parts each seed"


def pair_of(parts, spread, images=1):
    """Two runs of which ours is better by a half, and on each part by more or less."""
    g = np.random.default_rng(0)
    right = np.repeat((60 + g.normal(0, spread, parts)).clip(1, 99).round(), images)
    ours = np.stack([right, 100 - right, 0 * right], axis=1)
    theirs = np.tile([40, 60, 0], (parts * images, 1))
    return Pair(ours, theirs, np.repeat(np.arange(parts), images))


def shares(found, interval):
    return found.set_index("validation")[interval].to_dict()


def test_parts_that_are_all_alike_leave_only_the_seeds():
    found = coverage(pair_of(20, 0), 0.03, seeds=(3,), studies=400)
    # Student's t is exact then, with the same parts or others
    assert shares(found, STUDENTS) == pytest.approx({OTHER: 0.95, SAME: 0.95}, abs=0.03)
    assert shares(found, "bootstrap")[OTHER] < 0.85  # of three seeds


def test_students_t_knows_nothing_of_parts_that_all_seeds_share():
    found = coverage(pair_of(30, 20), 0.01, seeds=(5,), studies=200)
    assert shares(found, STUDENTS)[SAME] < 0.6 < 0.85 < shares(found, WIDER)[SAME]
    assert shares(found, STUDENTS)[OTHER] == pytest.approx(0.95, abs=0.04)


def test_the_wider_interval_holds_what_either_holds():
    found = coverage(pair_of(5, 20), 0.02, studies=50)
    assert list(found["seeds"]) == [3, 3, 5, 5]
    assert (found[WIDER] >= found[[STUDENTS, "bootstrap"]].max(axis=1)).all()


def test_images_of_a_part_are_one_draw():
    alone, thrice = (
        coverage(pair_of(12, 20, images), 0.02, seeds=(3,), studies=50) for images in (1, 3)
    )
    assert alone.equals(thrice)


def test_seeds_deviate_as_asked_for_whatever_their_parts_bring():
    # the parts alone bring more than that: nothing is added, and Student's t holds its level
    found = coverage(pair_of(30, 20), 0.01, seeds=(5,), studies=400)
    assert shares(found, STUDENTS)[OTHER] == pytest.approx(0.95, abs=0.03)


def test_without_a_pixel_to_find_nothing_is_simulated():
    pair = Pair(np.array([[0, 3, 0]] * 2), np.array([[0, 0, 0]] * 2), np.array([1, 2]))
    assert coverage(pair, 0.02).empty
