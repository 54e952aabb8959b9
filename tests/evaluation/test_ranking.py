"""Ranks, against plain loops over whole matrices."""

import numpy as np
import pytest
import torch

from bridgetower_train.distributed import Ranks
from bridgetower_train.evaluation import ranking
from bridgetower_train.evaluation.ranking import Candidates, candidates, itc_ranks, itm_ranks, recalls

ALONE = Ranks(0, 1, None)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(ranking, "CHUNK", 7)


def synthetic(images=40, seed=0):
    """Embeddings, and owners of 1 to 5 texts each, which resemble their image somewhat."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(images), rng.integers(1, 6, images))
    image = rng.standard_normal((images, 16))
    text = image[owner] + 1.5 * rng.standard_normal((len(owner), 16))
    unit = [torch.from_numpy(x / np.linalg.norm(x, axis=1, keepdims=True)).float() for x in (image, text)]
    return *unit, owner


def plain(score_IT, owner_T):
    """The same by definition: how many of the others score at least as high."""
    of_images = [
        1 + sum(score_IT[i, t] >= max(score_IT[i, owner_T == i]) for t in np.flatnonzero(owner_T != i))
        for i in range(len(score_IT))
    ]
    of_texts = [
        1 + sum(score_IT[i, t] >= score_IT[own, t] for i in range(len(score_IT)) if i != own)
        for t, own in enumerate(owner_T)
    ]
    return of_images, of_texts


@pytest.mark.parametrize("seed", range(3))
def test_chunks_rank_as_the_whole_matrix_does(seed):
    images, texts, owner = synthetic(seed=seed)
    of_images, of_texts = plain((images.double() @ texts.double().T).numpy(), owner)
    found = itc_ranks(images, texts, owner, ALONE)
    assert found[0].tolist() == of_images
    assert found[1].tolist() == of_texts
    assert 1 < np.mean(found[1]) < 20, "neither hopeless nor too easy"


def test_ties_count_against():
    images, texts, owner = synthetic(20)
    again = torch.cat([images, images[:3]]), torch.cat([texts, texts[owner < 3]])
    owners = np.concatenate([owner, 20 + owner[owner < 3]])
    before, after = itc_ranks(images, texts, owner, ALONE), itc_ranks(*again, owners, ALONE)
    assert (after[1][: len(texts)] >= before[1] + np.isin(owner, [0, 1, 2])).all()
    assert (after[0][:3] > before[0][:3]).all()
    same = torch.nn.functional.normalize(torch.ones(6, 4))
    nothing = itc_ranks(same, same, np.arange(6), ALONE)
    assert [rank.tolist() for rank in nothing] == [[6] * 6] * 2


def test_candidates_are_the_best_of_both():
    images, texts, _ = synthetic()
    score = (images @ texts.T).numpy()
    best = np.zeros_like(score, dtype=bool)
    for i, row in enumerate(score):
        best[i, np.argsort(-row)[:5]] = True
    for t, column in enumerate(score.T):
        best[np.argsort(-column)[:5], t] = True
    assert candidates(images, texts, 5, ALONE).pairs.tolist() == np.flatnonzero(best).tolist()
    assert len(candidates(images, texts, 1000, ALONE).pairs) == score.size


def test_matching_ranks_all_pairs_as_the_whole_matrix_does():
    images, texts, owner = synthetic()
    by_itc = itc_ranks(images, texts, owner, ALONE)
    score = np.random.default_rng(1).standard_normal((len(images), len(texts))).round(1).astype(np.float32)
    every = np.ones(score.size, dtype=bool)
    found = itm_ranks(Candidates(np.arange(score.size), every, every), score.ravel(), owner, by_itc)
    assert [f.tolist() for f in found] == list(plain(score, owner))


def test_what_was_not_scored_stands_behind():
    """As in the published code: the pairs that either direction chose, all others far below."""
    images, texts, owner = synthetic()
    by_itc = itc_ranks(images, texts, owner, ALONE)
    chosen = candidates(images, texts, 4, ALONE)
    pairs = chosen.pairs
    score = np.random.default_rng(1).standard_normal(len(pairs)).astype(np.float32)
    whole = np.full(len(images) * len(texts), -100, np.float32)
    whole[pairs] = score
    found = itm_ranks(chosen, score, owner, by_itc)
    counts = [
        np.bincount(side, minlength=size)
        for side, size in zip(np.divmod(pairs, len(texts)), (len(images), len(texts)), strict=True)
    ]
    for mine, definition, itc, scored in zip(
        found, plain(whole.reshape(len(images), -1), owner), by_itc, counts, strict=True
    ):
        here = np.array(definition) <= scored
        assert mine[here].tolist() == np.array(definition)[here].tolist()
        assert mine[~here].tolist() == np.maximum(itc, 1 + scored)[~here].tolist()
        assert 0 < here.sum() < len(here)
    assert (np.maximum(by_itc[1], 1 + counts[1]) > 1 + counts[1]).any()


def test_by_the_other_rule_a_query_ranks_its_own_choice_alone():
    """By definition: a matrix for each direction, in which what the query did not choose is far below."""
    images, texts, owner = synthetic()
    by_itc = itc_ranks(images, texts, owner, ALONE)
    chosen = candidates(images, texts, 4, ALONE)
    score = np.random.default_rng(1).standard_normal(len(chosen.pairs)).astype(np.float32)
    found = itm_ranks(chosen, score, owner, by_itc, "albef")
    for side, choice in enumerate((chosen.of_images, chosen.of_texts)):
        whole = np.full(len(images) * len(texts), -100, np.float32)
        whole[chosen.pairs[choice]] = score[choice]
        definition = np.array(plain(whole.reshape(len(images), -1), owner)[side])
        here = definition <= 4
        assert 0 < here.sum() < len(here)
        assert found[side][here].tolist() == definition[here].tolist()
        assert (found[side][~here] > 4).all()
    assert found[0].mean() < itm_ranks(chosen, score, owner, by_itc, "ms")[0].mean()


def test_recalls():
    figures = recalls(np.array([1, 2, 6, 11]), np.array([1, 1, 1, 1, 5]))
    assert figures["image to text R@1"] == 25
    assert figures["image to text R@5"] == 50
    assert figures["image to text R@10"] == 75
    assert figures["text to image R@1"] == 80
    assert figures["RSUM"] == 25 + 50 + 75 + 80 + 100 + 100
    assert figures["image to text median rank"] == 4
    assert figures["text to image median rank"] == 1
