"""What is counted of a data set, and of one injection, on data whose answer is known."""

import pandas as pd
import pytest
import torch

from dlilib import TileSet
from dlilib.analysis import dataset, injection, tables
from dlilib.balance import Plan

# Six images of 4 x 4: two defect-free ones, three pits and a scratch. Parts: 0 0 | 0 1 1 | 2.
LABELS = torch.tensor([0, 0, 1, 1, 1, 2])
AREAS = (0, 0, 1, 2, 4, 8)  # pixels


@pytest.fixture
def tiles():
    masks = torch.zeros(6, 16, dtype=torch.uint8)
    for mask, label, area in zip(masks, LABELS, AREAS, strict=True):
        mask[:area] = label
    return TileSet(
        images=torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 1, 4, 4).contiguous(),
        masks=masks.view(6, 4, 4),
        labels=LABELS,
        groups=torch.tensor([0, 0, 0, 1, 1, 2]),
        names=tuple("abcdef"),
        classes=("pit", "scratch"),
        sizes=torch.tensor([[40, 30]] * 6),
        exposure=torch.zeros(6, dtype=torch.int64),
    )


def test_overview_counts_images_parts_and_areas(tiles):
    found = dataset.overview(tiles)
    assert found.index.tolist() == ["pit", "scratch", "Free"]
    assert found["images"].tolist() == [3, 1, 2] and found["parts"].tolist() == [2, 1, 1]
    assert found["median share, %"].tolist() == [12.5, 50.0, 0.0]
    assert found.loc["pit", "mean share, %"] == pytest.approx(100 * 7 / 48)
    assert found["empty masks"].tolist() == [0, 0, 2]
    assert dataset.images(tiles)["width"].tolist() == [30] * 6


def test_exposures_are_images_of_one_part_and_white_where_there_are_fewer(tiles):
    found = dataset.exposures(tiles, most=3)
    assert list(found) == ["pit", "scratch"]
    assert found["pit"][:, 0, 0, 0].tolist() == [3, 4, 255]  # part 1, not the single image of 0
    assert found["scratch"][:, 0, 0, 0].tolist() == [5, 255, 255]
    assert list(dataset.exposures(tiles, largest=1)) == ["scratch"]


def test_edge_ratios_are_medians_without_masks_that_vanish(tiles):
    solid = tiles.masks.clone().view(6, 16)
    solid[2, 0] = 0  # vanishes
    solid[4, 1:4] = 0  # 4 pixels against 1
    solid[5, 4:] = 0  # 8 against 4
    thinner = TileSet(**{**vars_of(tiles), "masks": solid.view(6, 4, 4)})
    found = dataset.edge_ratios(tiles, thinner)["area ratio"]
    assert found.tolist() == [(1 + 4) / 2, 2]


def vars_of(tiles):
    names = ("images", "masks", "labels", "groups", "names", "classes", "sizes", "exposure")
    return {name: getattr(tiles, name) for name in names}


def test_finding_tells_the_mean_leak_of_each_split(tiles):
    leaked = pd.DataFrame(
        {
            "protocol": ["image", "image", "tile"],
            "leak": [1.0, 0.75, 0.0],
            "leak, defective": [0.5, 0.5, 0.0],
        }
    )
    found = dataset.finding(tiles, leaked)
    assert found.startswith("33% of the images are defect-free")
    assert "has 3.0 times the images of the rarest" in found
    assert "87.5% of the validation images show a part that is in training (50.0% one" in found
    assert found.endswith("with the tile-disjoint split 0%.")


def test_leaks_of_the_toy_tiles_vanish_where_parts_are_kept_together(toy):
    found = dataset.leaks(toy, [0, 1]).set_index(["protocol", "seed"])
    assert (found.loc["image", "leak"] > 0.5).all() and (found.loc["tile", "leak"] == 0).all()


def test_a_plan_is_listed_by_position_class_donor_and_blend(tiles):
    plan = Plan(
        target=torch.tensor([4, 1]),
        label=torch.tensor([2, 1]),
        donor=torch.tensor([5, 2]),
        maps=torch.zeros(2, 2, 3),
        poisson=torch.tensor([True, False]),
    )
    found = injection.plan_table(plan, tiles)
    assert found.loc[4].tolist() == ["scratch", "f", "Poisson"]
    assert found.loc[1].tolist() == ["pit", "c", "cut-paste"]


def test_class_counts_and_what_each_rule_leaves():
    counts = injection.class_counts({"before": LABELS, "after": LABELS + 1}, ["pit", "s", "t"])
    assert counts.loc["before"].to_dict() == {"Free": 2, "pit": 3, "s": 1, "t": 0}
    assert counts.loc["after"].tolist() == [0, 2, 3, 1]
    # two classes with one image each are uniform: nothing is filled; 3 to 1 needs two
    batches = [torch.tensor([0, 0, 1, 2]), torch.tensor([0, 0, 0, 1, 1, 1, 2])]
    found = injection.defect_free_left(batches, 2)
    assert found.loc["filled"].tolist() == [0, 0] and found.loc["uniform"].tolist() == [2, 1]


def test_changes_are_told_inside_the_mask_and_outside():
    before, masks = torch.zeros(1, 1, 1, 4), torch.tensor([[[1, 1, 0, 0]]])
    after = torch.tensor([[[[0.2, 0.4, -0.1, 0.0]]]])
    maps, table = injection.changes(before, {"one": after}, masks)
    assert torch.equal(maps["one"], after[:, 0].abs())
    assert table.loc["one"].tolist() == pytest.approx([255 * 0.3, 255 * 0.05, 255 * 0.1])


def test_a_saved_table_is_returned_and_lies_in_its_folder(tmp_path):
    table = pd.DataFrame({"a": [1.23456]})
    assert tables.save(table, tmp_path, "t", index=False, float_format="%.2f") is table
    assert (tmp_path / "tables" / "t.csv").read_text() == "a\n1.23\n"
