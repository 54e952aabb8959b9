"""BERT's masking: the right tokens, the right shares, the same for the same position."""

import math

import numpy as np
import pytest
import torch

from bridgetower_train.tasks.pretraining.masking import IGNORE, mask_tokens, max_masked_tokens
from tests.data.toy import toy_text

TEXT = toy_text()
LENGTH = 50
P = 0.15


def some_texts(count, seed=0, longest=LENGTH - 2):
    """`count` texts of 1 to `longest` ordinary tokens, as ids (count, LENGTH)."""
    rng = np.random.default_rng(seed)
    ids = np.full((count, LENGTH), 1)
    ids[:, 0] = TEXT.start
    for row, n in enumerate(rng.integers(1, longest + 1, count)):
        ids[row, 1 : n + 1] = rng.choice(TEXT.ordinary, n)
        ids[row, n + 1] = TEXT.end
    return torch.from_numpy(ids)


def mask(ids, position=None, seed=0, probability=P):
    position = np.arange(len(ids)) if position is None else np.asarray(position)
    return mask_tokens(TEXT, ids, position, seed, probability, max_masked_tokens(probability, LENGTH))


def test_labels_positions_and_masked_ids_agree():
    ids = some_texts(500)
    masked, positions, labels = mask(ids)
    assert masked.shape == ids.shape
    assert positions.shape == labels.shape == (500, math.ceil(P * 48))
    assert {t.dtype for t in (masked, positions, labels)} == {torch.int64}
    chosen = labels != IGNORE
    assert labels[chosen].equal(ids.gather(1, positions)[chosen])
    assert (positions[~chosen] == 0).all()
    untouched = torch.ones_like(ids, dtype=torch.bool)
    rows = torch.arange(500)[:, None].expand_as(positions)
    untouched[rows[chosen], positions[chosen]] = False
    assert masked[untouched].equal(ids[untouched])
    assert not torch.isin(labels[chosen], torch.tensor([TEXT.start, 1, TEXT.end])).any(), "a special token was masked"
    assert (chosen.int().diff(dim=1) <= 0).all(), "padding comes last"
    for row in range(500):
        assert (positions[row][chosen[row]].diff() > 0).all(), "a position twice, or out of order"


def test_shares_over_100k_tokens():
    """Bounds of five standard deviations."""
    ids = some_texts(5000)
    tokens = int((~torch.from_numpy(TEXT.special)[ids]).sum())
    assert tokens > 100_000
    masked, positions, labels = mask(ids)
    chosen = labels != IGNORE
    count = int(chosen.sum())
    assert abs(count - P * tokens) < 5 * math.sqrt(5000 / 4), "stochastic rounding leaves at most 1/4 variance a text"
    shown, original = masked.gather(1, positions)[chosen], labels[chosen]

    def close(observed, share, of):
        return abs(observed - share * of) < 5 * math.sqrt(of * share * (1 - share))

    same = 1 / len(TEXT.ordinary)
    assert close(int((shown == TEXT.mask).sum()), 0.8, count)
    assert close(int((shown == original).sum()), 0.1 + 0.1 * same, count)
    random = shown[(shown != TEXT.mask) & (shown != original)].numpy()
    assert close(len(random), 0.1 * (1 - same), count)
    assert set(random) <= set(TEXT.ordinary)
    assert {random.min(), random.max()} == {TEXT.ordinary[0], TEXT.ordinary[-1]}
    observed = np.bincount(random, minlength=TEXT.vocab_size)[TEXT.ordinary]
    chi2 = ((observed - len(random) * same) ** 2 / (len(random) * same)).sum()
    degrees = len(TEXT.ordinary) - 1
    assert abs(chi2 - degrees) < 5 * math.sqrt(2 * degrees), "random tokens are not uniform"


def test_every_place_is_equally_likely():
    ids = some_texts(1).repeat(20_000, 1)
    n = int((~torch.from_numpy(TEXT.special)[ids[0]]).sum())
    _, positions, labels = mask(ids)
    observed = np.bincount(positions[labels != IGNORE].numpy(), minlength=LENGTH)[1 : n + 1]
    assert np.all(np.abs(observed - 20_000 * P) < 5 * math.sqrt(20_000 * P * (1 - P)))


@pytest.mark.parametrize("tokens", [1, 3, 20, 48])
def test_counts_are_rounded_at_random_to_the_neighbouring_integers(tokens):
    ids = torch.full((4000, LENGTH), 1)
    ids[:, 0], ids[:, 1 : tokens + 1], ids[:, tokens + 1] = TEXT.start, int(TEXT.ordinary[0]), TEXT.end
    counts = (mask(ids)[2] != IGNORE).sum(1)
    expected = P * tokens
    assert set(counts.tolist()) <= {math.floor(expected), math.ceil(expected)}
    assert abs(float(counts.float().mean()) - expected) < 5 * 0.5 / math.sqrt(4000)


def test_masks_hang_on_seed_and_position_alone():
    ids = some_texts(40)
    whole = mask(ids)
    shuffled = torch.randperm(40)
    for one, other in zip(whole, mask(ids[shuffled], position=shuffled.numpy()), strict=True):
        assert one[shuffled].equal(other)
    longest = int((ids != 1).sum(1).max())
    narrow = mask(ids[:, :longest])
    assert narrow[0].equal(whole[0][:, :longest])
    assert narrow[1].equal(whole[1])
    assert narrow[2].equal(whole[2])
    assert not mask(ids, position=np.arange(40) + 40)[0].equal(whole[0])
    assert not mask(ids, seed=1)[0].equal(whole[0])


def test_short_texts_and_high_probabilities():
    ids = torch.tensor([[TEXT.start, int(TEXT.ordinary[5]), TEXT.end], [TEXT.start, TEXT.end, 1]])
    masked, positions, labels = mask(ids, probability=0.9)
    assert positions.shape == labels.shape == (2, math.ceil(0.9 * 48))
    assert (labels[1] == IGNORE).all()
    assert masked[1].equal(ids[1])
    full = some_texts(300)
    chosen = mask(full, probability=0.99)[2] != IGNORE
    real = (~torch.from_numpy(TEXT.special)[full]).sum(1)
    assert (chosen.sum(1) <= real).all()
    assert (chosen.sum(1) >= real - 1).all()
