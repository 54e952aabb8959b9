"""Image-text matching by itself."""

import pytest
import torch

from bridgetower_train.tasks.pretraining.itm import hard_negatives, itm_loss, others

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
TEXT_ID = torch.tensor([1, 2, 3, 4, 1])
OTHER = others(IMAGE_ID, TEXT_ID)
HARD = torch.ones(5, dtype=torch.bool)


def test_equal_images_and_equal_texts_are_not_negatives():
    allowed = (
        {(a, b) for a in range(5) for b in range(5)} - {(i, i) for i in range(5)} - {(1, 2), (2, 1), (0, 4), (4, 0)}
    )
    assert {(a, b) for a, b in OTHER.nonzero().tolist()} == allowed


@pytest.mark.parametrize("of", ["images", "texts"])
def test_negatives_follow_the_similarity(of: str):
    torch.manual_seed(0)
    similarity = SIMILARITY if of == "images" else SIMILARITY.T
    drawn = torch.stack([hard_negatives(similarity, OTHER, HARD) for _ in range(DRAWS)])
    expected = similarity.masked_fill(~OTHER, -torch.inf).softmax(-1) * DRAWS
    for row in range(len(IMAGE_ID)):
        counts = torch.bincount(drawn[:, row], minlength=len(IMAGE_ID))
        allowed = OTHER[row]
        assert counts[~allowed].sum() == 0, "what belongs together was drawn"
        chi_square = ((counts - expected[row])[allowed] ** 2 / expected[row][allowed]).sum().item()
        assert chi_square < CHI_SQUARE_1E_4[int(allowed.sum()) - 1]


def test_own_row_where_there_is_no_other_image():
    for size in (1, 3):
        none = torch.zeros(size, size, dtype=torch.bool)
        assert hard_negatives(torch.zeros(size, size), none, HARD[:size]).tolist() == list(range(size))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_similarities_that_are_not_finite_still_give_rows(value: float):
    drawn = hard_negatives(torch.full((5, 5), value), OTHER, HARD)
    assert ((drawn >= 0) & (drawn < 5)).all()


def test_sums_over_the_valid_pairs():
    aligned, mismatched = torch.randn(2, 3, 2, dtype=torch.float64)
    negative = torch.tensor([1, 1, 0])  # the second text has no other image
    loss, right = itm_loss(torch.cat([aligned, mismatched]), [negative])
    positive = -aligned.log_softmax(-1)[:, 1].sum()
    expected = positive - mismatched.log_softmax(-1)[[0, 2], 0].sum()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    hits = (aligned[:, 1] > aligned[:, 0]).sum() + (mismatched[:, 0] > mismatched[:, 1])[[0, 2]].sum()
    assert right.item() == hits.item()


def test_hard_negatives_wait_for_their_turn():
    """Rows 0 and 1 draw uniformly, rows 2 to 4 the most similar."""
    torch.manual_seed(0)
    hard = torch.tensor([False, False, True, True, True])
    drawn = torch.stack([hard_negatives(100 * SIMILARITY, OTHER, hard) for _ in range(2000)])
    for row in (0, 1):
        share = torch.bincount(drawn[:, row], minlength=5)[OTHER[row]] / len(drawn)
        assert share.min() > 0.8 / OTHER[row].sum()
    assert (drawn[:, 2:] == SIMILARITY.masked_fill(~OTHER, -torch.inf).argmax(-1)[2:]).all()
