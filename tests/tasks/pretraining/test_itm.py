"""Image-text matching by itself."""

import pytest
import torch

from bridgetower_train.tasks.pretraining.itm import hard_negatives, itm_loss

DRAWS = 20_000
CHI_SQUARE_1E_4 = {1: 15.14, 2: 18.42, 3: 21.11}
"""What chi-square exceeds once in 10,000 times, by degrees of freedom."""

SIMILARITY = torch.tensor(
    [
        [9.0, 0.5, 0.0, 1.5, -1.0],
        [1.0, 9.0, 8.0, 0.0, 2.0],
        [0.0, 9.0, 9.0, -2.0, 0.3],
        [2.0, 1.0, 0.0, 9.0, 1.0],
        [0.1, 0.2, 0.3, 0.4, 9.0],
    ]
)
IMAGE_ID = torch.tensor([7, 3, 3, 5, 6])


def test_negatives_follow_the_similarity():
    torch.manual_seed(0)
    drawn = torch.stack([hard_negatives(SIMILARITY, IMAGE_ID) for _ in range(DRAWS)])
    other = IMAGE_ID[:, None] != IMAGE_ID
    expected = SIMILARITY.masked_fill(~other, -torch.inf).softmax(-1) * DRAWS
    for row in range(len(IMAGE_ID)):
        counts = torch.bincount(drawn[:, row], minlength=len(IMAGE_ID))
        allowed = other[row]
        assert counts[~allowed].sum() == 0, "an image of the same id was drawn"
        chi_square = ((counts - expected[row])[allowed] ** 2 / expected[row][allowed]).sum().item()
        assert chi_square < CHI_SQUARE_1E_4[int(allowed.sum()) - 1]


def test_own_row_where_there_is_no_other_image():
    assert hard_negatives(torch.zeros(3, 3), torch.tensor([4, 4, 4])).tolist() == [0, 1, 2]
    assert hard_negatives(torch.zeros(1, 1), torch.tensor([4])).tolist() == [0]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_similarities_that_are_not_finite_still_give_rows(value: float):
    drawn = hard_negatives(torch.full((5, 5), value), IMAGE_ID)
    assert ((drawn >= 0) & (drawn < 5)).all()


def test_sums_over_the_valid_pairs():
    aligned, mismatched = torch.randn(2, 3, 2, dtype=torch.float64)
    negative = torch.tensor([1, 1, 0])  # the second text has no other image
    loss, right = itm_loss(torch.cat([aligned, mismatched]), negative)
    positive = -aligned.log_softmax(-1)[:, 1].sum()
    expected = positive - mismatched.log_softmax(-1)[[0, 2], 0].sum()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    hits = (aligned[:, 1] > aligned[:, 0]).sum() + (mismatched[:, 0] > mismatched[:, 1])[[0, 2]].sum()
    assert right.item() == hits.item()
