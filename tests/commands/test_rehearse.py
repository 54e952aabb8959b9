"""`bridgetower rehearse`: one rank of many, simulated by the real program."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from bridgetower_train.cli import main
from bridgetower_train.data.order import Order
from bridgetower_train.data.shards import open_corpus
from bridgetower_train.distributed import shut_down
from bridgetower_train.errors import UserError
from bridgetower_train.rehearsal.coverage import check_coverage
from bridgetower_train.rehearsal.group import CallSite, join
from data_prep.shapes.synthetic import synthetic_corpus
from data_prep.shards.repeated import repeat_shard


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder with the corpus `large`: 2,345 records of 5 captions."""
    root = tmp_path_factory.mktemp("rehearse")
    synthetic_corpus(root / "synthetic", 64, images=4, records=40)
    repeat_shard(open_corpus(str(root), "synthetic"), root / "large", 2345)
    return root


def rehearse(*overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bridgetower_train", "rehearse", "model=tiny", "data=shapes", *overrides]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)


def test_it_plays_a_rank_of_many(root: Path, tmp_path: Path):
    """The corpus is real, the tokenizer synthetic; what is sent is what the shapes of 32 ranks ask for."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    data = [f"data.root={root}", "data.corpora={large: 1.0, shapes: 0}", "data.validation=null", "data.lanes=32"]
    done = rehearse("world_size=32", "rank=17", "global_batch=128", f"scratch={scratch}", *data)
    assert done.returncode == 0, done.stderr
    out = done.stdout
    assert "rank      17 of 32" in out
    assert "32 ranks together read 11,712 samples" in out  # 2,345 x 5 = 11,725, of which 32 lanes take 366 each
    assert "13 sit out" in out
    assert "4 rows x 128 columns, 0.002 MB of logits a term; 0.52 MB of gathered embeddings" in out
    assert "loss_itc" in out
    parameters = float(re.search(r"([\d.]+) M parameters", out)[1]) * 1e6
    gradients = re.search(r"\| all_reduce \| cards \| \d+ \| ([\d,]+) \| [\d,]+ \| engines/native.py", out)
    assert float(gradients[1].replace(",", "")) == pytest.approx(4 * parameters, rel=0.3)  # the vocabulary is smaller
    assert "| all_gather | cards | 2 | 526,336 |" in out  # 128 x 2 x 512 float32, and 2 x 128 ids
    assert "| reduce_scatter | cards | 1 | 524,288 | 507,904 | tasks/gather.py backward |" in out
    assert not list(scratch.iterdir())


def test_rank_zero_writes_the_checkpoint(root: Path):
    data = [f"data.root={root}", "data.corpora={large: 1.0, shapes: 0}", "data.validation=null"]
    once = ["engine.reduce=once", "engine.reduce_precision=bf16", "optim.moments=bf16"]
    done = rehearse("world_size=8", "global_batch=32", *data, *once)
    assert done.returncode == 0, done.stderr
    assert "moments   fp32 in place of bf16" in done.stdout
    sent = re.search(r"\| all_reduce \| cards \| 1 \| ([\d,]+) \| [\d,]+ \| engines/reduction.py average", done.stdout)
    written = float(re.search(r"saved +([\d.]+) GB by this rank", done.stdout)[1]) * 1e9
    assert float(sent[1].replace(",", "")) == pytest.approx(written / 6, rel=0.01), "2 bytes instead of 12"
    assert float(re.search(r"saved +([\d.]+) GB by this rank", done.stdout)[1]) > 0.01


@pytest.mark.parametrize("engine", ["zero1", "zero3"])
def test_a_rank_that_shares_its_states(root: Path, engine: str):
    """Gradients go to whoever keeps them, weights are gathered; the checkpoint is rank 0's."""
    pytest.importorskip("deepspeed")
    data = [f"data.root={root}", "data.corpora={large: 1.0, shapes: 0}", "data.validation=null"]
    done = rehearse("world_size=8", "rank=5", "global_batch=32", f"engine={engine}", *data)
    assert done.returncode == 0, done.stderr
    parameters = float(re.search(r"([\d.]+) M parameters", done.stdout)[1]) * 1e6
    sums = dict.fromkeys(("reduce", "reduce_scatter", "all_gather"), 0)
    rows = re.findall(r"\| (\w+) \| cards \| \d+ \| ([\d,]+) \| [\d,]+ \| (?!tasks/gather)", done.stdout)
    for kind, size in rows:
        sums[kind] = sums.get(kind, 0) + int(size.replace(",", ""))
    assert sums["reduce" if engine == "zero1" else "reduce_scatter"] == pytest.approx(4 * parameters, rel=0.3)
    times = 1 if engine == "zero1" else 2  # the forward and the backward pass
    assert sums["all_gather"] == pytest.approx(times * 4 * parameters, rel=0.3)
    assert "rank 0 writes for all" in done.stdout
    assert re.search(r"loss \d", done.stdout), "what fills up the parts is no number"


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["world_size=8", "rank=8"], "rank=8: must be from 0 to 7"),
        (["world_size=1"], "world_size=1: must be at least 2"),
        (["world_size=3"], "data.lanes=8: must be a multiple of the 3 ranks"),
        (["world_size=8", "scratch=/proc"], "scratch=/proc: cannot be written to"),
        (["world_size=8", "data.corpora={shapes: 0}"], "data.corpora: is empty"),
    ],
)
def test_what_is_wrong_is_named(overrides: list[str], named: str, capsys):
    assert main(["rehearse", "model=tiny", "data=shapes", *overrides]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1


class Repeating(Order):
    """An order with a fault: the first sample of each second lane stands in the lane before it as well."""

    def columns(self, positions):
        return super().columns(np.where(np.asarray(positions) == self.samples_per_lane, 0, positions))


class Skipping(Order):
    """An order with a fault: an eighth of the first epoch is said to belong to the second."""

    def columns(self, positions):
        epoch, *rest = super().columns(positions)
        return np.where(np.asarray(positions) % 8 == 0, 1, epoch), *rest


@pytest.mark.parametrize(("weight", "captions"), [(1.0, "all"), (2.0, "all"), (0.4, "all"), (1.0, "one")])
def test_an_epoch_is_covered(root: Path, weight: float, captions: str):
    order = Order([open_corpus(str(root), "large")], [weight], 7, 24, 2, captions, 100)
    for world_size, micro_batch, accumulation in ((1, 48, 1), (8, 6, 1), (12, 2, 2)):
        samples, left_out = check_coverage(order, world_size, micro_batch, accumulation)
        assert samples == order.epoch_samples
        assert samples + left_out == round(weight * 2345 * (5 if captions == "all" else 1))


@pytest.mark.parametrize(("faulty", "named"), [(Repeating, "more than 1 times"), (Skipping, "too rarely")])
def test_a_faulty_order_is_found(root: Path, faulty: type[Order], named: str):
    order = faulty([open_corpus(str(root), "large")], [1.0], 7, 8, 2, "all", 100)
    with pytest.raises(UserError, match=named):
        check_coverage(order, 4, 4, 1)


def test_the_other_ranks_hold_what_this_one_holds():
    ranks, log = join(3, 5)
    try:
        own = torch.arange(4.0)
        for op, expected in ((dist.ReduceOp.SUM, 5 * own), (dist.ReduceOp.MAX, own), (dist.ReduceOp.AVG, own)):
            given = own.clone()
            dist.all_reduce(given, op)
            assert torch.equal(given, expected)
        gathered = torch.zeros(20)
        dist.all_gather_into_tensor(gathered, own)
        assert torch.equal(gathered, own.repeat(5))
        part = torch.zeros(2)
        dist.reduce_scatter_tensor(part, torch.arange(10.0))
        assert torch.equal(part, 5 * torch.tensor([6.0, 7.0]))
        reduced = torch.ones(2)
        dist.reduce(reduced, dst=4)
        assert torch.equal(reduced, torch.full((2,), 5.0))
        assert ranks.gather_objects({"rank": 3}) == [{"rank": 3}] * 5
        assert ranks.total(2) == 10
    finally:
        shut_down()
    kinds = {(key.kind, key.between): (traffic.count, traffic.bytes) for key, traffic in log.traffic.items()}
    assert kinds["all_reduce", "cards"] == (3, 48)
    assert kinds["all_gather", "cards"] == (1, 80)
    assert kinds["reduce_scatter", "cards"] == (1, 40)
    assert kinds["all_reduce", "hosts"] == (1, 8)
    assert CallSite("start", "hosts", "all_reduce", "?") in log.traffic


@pytest.mark.nightly
@pytest.mark.parametrize("task", ["nlvr2", "vqav2"])
def test_a_task_of_labels_is_rehearsed_without_its_corpora(task: str, tmp_path: Path):
    keys = [f"task={task}", "data.corpora={x: 1.0}", f"data.root={tmp_path}", "data.validation=null", "data.lanes=8"]
    tokenizer = f"tokenizer={tmp_path}/none.json"
    done = rehearse("world_size=4", "rank=1", "global_batch=16", f"scratch={tmp_path}", *keys, tokenizer)
    assert done.returncode == 0, done.stderr
    assert "4 ranks together read" in done.stdout
    assert "loss" in done.stdout
