"""Image-text contrast by itself."""

import math

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from helpers import run_ranks
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bridgetower_train.rehearsal.group import join
from bridgetower_train.tasks.gather import all_gather, alone
from bridgetower_train.tasks.pretraining import itc
from bridgetower_train.tasks.pretraining.itc import LOGIT_SCALE_RANGE, TERMS, clamped_logit_scale, itc_loss

IMAGE_ID = torch.tensor([7, 8, 7, 9, 10, 7, 11, 12])
TEXT_ID = torch.tensor([1, 2, 3, 4, 2, 5, 6, 7])
"""Rows 1 and 4 show different images with the same text."""
LOGIT_SCALE = torch.tensor(math.log(10.0), dtype=torch.float64)


def embeddings(seed: int = 0) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    made = torch.randn(3, len(IMAGE_ID), 6, generator=random, dtype=torch.float64)
    return dict(zip(("text", "image", "cross"), F.normalize(made, dim=-1), strict=True))


def loss_row_by_row(made: dict[str, Tensor], form: str) -> float:
    """The definition: each row among itself and the rows with another image and another text."""
    total = 0.0
    for query, key in TERMS[form]:
        for row in range(len(IMAGE_ID)):
            columns = [
                c
                for c in range(len(IMAGE_ID))
                if c == row or (IMAGE_ID[c] != IMAGE_ID[row] and TEXT_ID[c] != TEXT_ID[row])
            ]
            logits = 10.0 * made[query][row] @ made[key][columns].T
            total += (logits.logsumexp(0) - logits[columns.index(row)]).item()
    return total / len(TERMS[form])


@pytest.mark.parametrize("form", TERMS)
def test_definition(form: str):
    loss, _ = itc_loss(embeddings(), LOGIT_SCALE, IMAGE_ID, TEXT_ID, form)
    assert loss.item() == pytest.approx(loss_row_by_row(embeddings(), form), rel=1e-10)


@pytest.mark.parametrize("form", TERMS)
def test_captions_of_one_image_may_be_joint_positives(form: str):
    """The target of a row is uniform over the rows of its image; other rows of its text stay out."""
    made, total = embeddings(), 0.0
    for query, key in TERMS[form]:
        for row in range(len(IMAGE_ID)):
            right = [c for c in range(len(IMAGE_ID)) if IMAGE_ID[c] == IMAGE_ID[row]]
            columns = [c for c in range(len(IMAGE_ID)) if c in right or TEXT_ID[c] != TEXT_ID[row]]
            logits = 10.0 * made[query][row] @ made[key][columns].T
            total += sum((logits.logsumexp(0) - logits[columns.index(c)]).item() for c in right) / len(right)
    loss, _ = itc_loss(made, LOGIT_SCALE, IMAGE_ID, TEXT_ID, form, "positive")
    assert loss.item() == pytest.approx(total / len(TERMS[form]), rel=1e-10)


def test_hugging_face_form_has_no_term_from_image_to_text():
    assert TERMS["hf"] == (("text", "image"), ("text", "cross"), ("image", "cross"))


@pytest.mark.parametrize("form", TERMS)
def test_rows_of_the_same_image_do_not_repel(form: str):
    """Row 0's loss does not depend on what rows 2 and 5, of the same image, look like."""
    made = embeddings()
    for value in made.values():
        value.requires_grad_()
    total, _ = itc_loss(made, LOGIT_SCALE, IMAGE_ID, TEXT_ID, form)
    kept = [0, 1, 3, 4, 6, 7]
    without, _ = itc_loss({k: v[kept] for k, v in made.items()}, LOGIT_SCALE, IMAGE_ID[kept], TEXT_ID[kept], form)
    (gradient_total,) = torch.autograd.grad(total, [made["text"]])
    (gradient_without,) = torch.autograd.grad(without, [made["text"]])
    ways_into_text = sum(key == "text" for _, key in TERMS[form])
    if not ways_into_text:  # otherwise the other rows' losses push row 0 as well
        assert torch.allclose(gradient_total[0], gradient_without[0], atol=1e-12)
    assert not torch.allclose(gradient_total[1], gradient_without[1], atol=1e-12)


def test_recall_counts_any_row_of_the_right_image():
    image = F.normalize(torch.eye(8, dtype=torch.float64), dim=-1)
    nearest = torch.tensor([2, 1, 2, 4, 4, 0, 7, 6])  # right: 0 (by 2), 1, 2, 4, 5 (by 0)
    _, right = itc_loss({"text": image[nearest], "image": image, "cross": image}, LOGIT_SCALE, IMAGE_ID, TEXT_ID, "hf")
    assert right.item() == 5


@pytest.mark.parametrize("beyond", [LOGIT_SCALE_RANGE[0] - 0.1, LOGIT_SCALE_RANGE[1] + 0.1])
def test_scale_is_clamped_and_its_gradient_is_not(beyond: float):
    """What would lead further out is left out of the update (tests/training/test_contrast.py)."""
    scale = torch.tensor(beyond, requires_grad=True)
    factor = clamped_logit_scale(scale)
    nearest = min(LOGIT_SCALE_RANGE, key=lambda bound: abs(bound - beyond))
    assert factor.item() == pytest.approx(math.exp(nearest))
    (gradient,) = torch.autograd.grad(factor, scale)
    assert gradient.item() == pytest.approx(math.exp(nearest))


def test_scale_within_its_range_is_free():
    scale = torch.tensor(1.0, requires_grad=True)
    for sign in (1.0, -1.0):
        (gradient,) = torch.autograd.grad(clamped_logit_scale(scale) * sign, scale)
        assert gradient.item() == pytest.approx(sign * math.e)


def test_in_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = {name: value.float() for name, value in embeddings().items()}
        loss, _ = itc_loss(narrow, LOGIT_SCALE.float(), IMAGE_ID, TEXT_ID, "symmetric")
    assert loss.item() == pytest.approx(loss_row_by_row(embeddings(), "symmetric"), rel=1e-6)


def gather_and_weigh(rank: int, world_size: int) -> tuple[Tensor, Tensor]:
    """Each rank weighs all rows by its own numbers; (gathered rows, gradient of the own rows)."""
    rows = torch.full((2, 3), float(rank), requires_grad=True)
    gathered = all_gather(rows)
    weights = torch.arange(gathered.numel()).view_as(gathered) * (rank + 1.0)
    (gathered * weights).sum().backward()
    return gathered.detach(), rows.grad


def test_gather_has_exact_gradients():
    results = run_ranks(gather_and_weigh, 3, 3)
    weights = torch.arange(18.0).view(6, 3) * (1 + 2 + 3)
    for rank, (gathered, gradient) in enumerate(results):
        assert torch.equal(gathered, torch.tensor([0.0, 0, 1, 1, 2, 2])[:, None].expand(6, 3))
        assert torch.equal(gradient, weights[2 * rank : 2 * rank + 2])


def loss_and_gradients(rank: int, world_size: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Form -> (loss, gradients) of this rank's part of the batch, as DistributedDataParallel averages them."""
    size = len(IMAGE_ID) // world_size
    rows = slice(rank * size, (rank + 1) * size)
    results = {}
    for form in TERMS:
        whole = torch.stack(list(embeddings().values())).requires_grad_()
        scale = LOGIT_SCALE.clone().requires_grad_()
        local = dict(zip(("text", "image", "cross"), whole[:, rows], strict=True))
        loss, _ = itc_loss(local, scale, IMAGE_ID[rows], TEXT_ID[rows], form)
        loss = loss * world_size / len(IMAGE_ID)
        gradients = torch.autograd.grad(loss, [whole, scale])
        results[form] = (loss.detach(), torch.cat([g.flatten() for g in gradients]))
    return results


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_agree_with_one_process(world_size: int):
    alone = loss_and_gradients(0, 1)
    ranks = run_ranks(loss_and_gradients, world_size, world_size)
    for form, (loss, gradients) in alone.items():
        mean_loss = torch.stack([result[form][0] for result in ranks]).mean()
        mean_gradients = torch.stack([result[form][1] for result in ranks]).mean(0)
        assert mean_loss.item() == pytest.approx(loss.item(), abs=1e-12)
        assert torch.allclose(mean_gradients, gradients, atol=1e-12)


@pytest.mark.parametrize("same_image", ["exclude", "positive"])
@pytest.mark.parametrize("form", TERMS)
def test_groups_are_as_if_alone(form: str, same_image: str):
    """Eight rows in groups of two or four, whose ids occur in other groups as well."""
    made = embeddings()
    for among in (2, 4):
        loss, right = itc_loss(made, LOGIT_SCALE, IMAGE_ID, TEXT_ID, form, same_image, among)
        parts = []
        for begin in range(0, len(IMAGE_ID), among):
            rows = slice(begin, begin + among)
            own = {name: value[rows] for name, value in made.items()}
            parts.append(itc_loss(own, LOGIT_SCALE, IMAGE_ID[rows], TEXT_ID[rows], form, same_image))
        assert loss.item() == pytest.approx(sum(part.item() for part, _ in parts), rel=1e-12)
        assert right.item() == sum(part.item() for _, part in parts)


def groups_across_ranks(rank: int, world_size: int) -> dict[str, tuple[float, float]]:
    """Case -> (loss of this rank's four rows, of all by the definition), in groups of eight, and of six, which ranks share."""
    rows, results = slice(4 * rank, 4 * rank + 4), {}
    random = torch.Generator().manual_seed(0)
    made = F.normalize(torch.randn(3, 4 * world_size, 6, generator=random, dtype=torch.float64), dim=-1)
    every = dict(zip(("text", "image", "cross"), made, strict=True))
    ids = torch.arange(len(made[0])) // 2

    def loss(rows: slice, form: str, among: int | None = None) -> float:
        own = {name: value[rows] for name, value in every.items()}
        return itc_loss(own, LOGIT_SCALE, ids[rows], ids[rows], form, "exclude", among)[0].item()

    for form in TERMS:
        for among in (8, 6):
            found = loss(rows, form, among)
            with alone():
                parts = [loss(slice(begin, begin + among), form) for begin in range(0, len(ids), among)]
            results[f"{form} {among}"] = found, sum(parts)
    return results


def test_groups_across_ranks():
    ranks = run_ranks(groups_across_ranks, 6, 6)
    for case, (_, expected) in ranks[0].items():
        assert sum(found[case][0] for found in ranks) == pytest.approx(expected, rel=1e-12), case


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("form", TERMS)
def test_blocks_of_rows_give_the_same(form: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    """Eight rows at once, and in blocks of three, three and two."""
    results = []
    for limit in (itc.BLOCK_LOGITS, 3 * len(IMAGE_ID)):
        monkeypatch.setattr(itc, "BLOCK_LOGITS", limit)
        whole = torch.stack(list(embeddings().values())).to(dtype).requires_grad_()
        scale = LOGIT_SCALE.to(dtype).requires_grad_()
        made = dict(zip(("text", "image", "cross"), whole.unbind(), strict=True))
        loss, right = itc_loss(made, scale, IMAGE_ID, TEXT_ID, form)
        results.append((loss.detach(), right, *torch.autograd.grad(loss, [whole, scale])))
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    for at_once, in_blocks in zip(*results, strict=True):
        torch.testing.assert_close(in_blocks, at_once, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("ranks", "rows"), [(512, 4), (64, 512)])
def test_no_logits_exceed_a_block(ranks: int, rows: int):
    """The shapes of one rank at full size, forward and backward, without numbers in them."""
    columns, width = ranks * rows, 300
    logits: list[int] = []

    class Logits(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            shapes = [t.shape for t in tree_leaves(result) if isinstance(t, Tensor)]
            logits.extend(shape.numel() for shape in shapes if shape[1:] == (columns,) and shape[0] != width)
            return result

    _, log = join(0, ranks)
    try:
        with FakeTensorMode(), Logits():
            made = {name: torch.ones(rows, width, requires_grad=True) for name in ("text", "image", "cross")}
            loss, _ = itc_loss(made, torch.ones((), requires_grad=True), torch.arange(rows), torch.arange(rows), "hf")
            loss.backward()
    finally:
        dist.destroy_process_group()
    assert max(logits) == min(rows * columns, itc.BLOCK_LOGITS)
    assert {key.kind: traffic.bytes for key, traffic in log.traffic.items()} == {
        "all_gather": 2 * columns * width * 4 + columns * 2 * 8,
        "reduce_scatter": 2 * columns * width * 4,
    }
