"""What is traced on fake tensors against what a real step keeps and holds."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from helpers import pretraining, random_batch, run_config, run_ranks

from bridgetower_train.bench.memory import BenchMemoryConfig, compare
from bridgetower_train.config import DeviceConfig, ObjectiveConfig
from bridgetower_train.devices import cpu
from bridgetower_train.devices.cpu import CpuDevice
from bridgetower_train.distributed import Ranks
from bridgetower_train.engines.deepspeed import ZERO_BUCKET
from bridgetower_train.planning.memory import ENGINES, Memory, Precision, contrast_entry, measure, states
from bridgetower_train.planning.trace import PARTS, Platform, plain, trace
from bridgetower_train.rehearsal.group import join
from tests.tiny import SMALL

OBJECTIVE = ObjectiveConfig(itc_dim=16)
RUN = run_config(SMALL, OBJECTIVE)
PLAIN, FUSED = (Platform.on_paper(fused_attention, "fp32") for fused_attention in (False, True))


@pytest.fixture(scope="module")
def memory() -> Memory:
    return measure(RUN, FUSED, checkpointing=False)


def really_saved(pairs: int) -> int:
    """Bytes that a real forward pass gives to autograd, each storage once, weights apart."""
    task = pretraining(SMALL, OBJECTIVE, plain)
    weights = {p.data_ptr() for p in task.parameters()}
    kept = {}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss, _ = task.losses(random_batch(SMALL, pairs), torch.ones(3))
    assert loss.requires_grad
    return sum(t.untyped_storage().nbytes() for t in kept.values())


def test_the_trace_keeps_what_autograd_does():
    timeline = trace(RUN, 6, False, PLAIN)
    assert timeline.parameters == sum(p.numel() for p in pretraining(SMALL, OBJECTIVE, plain).parameters())
    # Beyond what autograd asks for, the batch and the metrics are alive; the loader masks one more place per text.
    assert sum(timeline.kept.values()) == pytest.approx(really_saved(6), rel=0.05)
    assert set(timeline.kept) == set(PARTS)
    assert [timeline.blocks[part] for part in PARTS[:-1]] == [4, 4, 2, 2]


@pytest.mark.parametrize(
    ("batch", "micro_batches", "checkpointing", "precision", "dropout", "patch_dropout"),
    [(2, 1, False, "fp32", 0.0, 0.0), (12, 1, False, "fp32", 0.1, 0.0), (12, 1, True, "fp32", 0.0, 0.0),
     (12, 2, False, "fp32", 0.0, 0.0), (6, 8, False, "fp32", 0.1, 0.0), (12, 1, False, "bf16", 0.0, 0.0),
     (12, 1, False, "fp32", 0.0, 0.5)],
)  # fmt: skip
def test_the_plan_is_within_a_tenth_of_a_real_step(
    batch, micro_batches, checkpointing, precision, dropout, patch_dropout
):
    model = replace(SMALL, dropout=dropout, patch_dropout=patch_dropout)
    config = BenchMemoryConfig(
        batch, micro_batches, checkpointing, model=model, objective=OBJECTIVE,
        device=DeviceConfig(name="cpu", precision=precision),
    )  # fmt: skip
    peak = compare(config, CpuDevice(config.device, 0), Ranks(0, 1, None))
    assert peak.planned.total == pytest.approx(peak.measured, rel=0.1)
    assert (peak.planned.copies > 0) == (precision == "bf16")
    assert min(peak.planned.weights, peak.planned.optimizer, peak.planned.activations) > 0


@pytest.mark.nightly
def test_the_plan_is_within_a_tenth_of_compiled_blocks(monkeypatch):
    """With what Inductor decides to keep, but without its kernels, which take minutes to make on a CPU."""
    monkeypatch.setattr(CpuDevice, "compiler", "aot_eager_decomp_partition")
    monkeypatch.setattr(CpuDevice, "compiler_options", None)
    device = DeviceConfig(name="cpu", execution="compile")
    config = BenchMemoryConfig(12, model=replace(SMALL, dropout=0.1), objective=OBJECTIVE, device=device)
    peak = compare(config, CpuDevice(device, 0), Ranks(0, 1, None))
    assert peak.planned.total == pytest.approx(peak.measured, rel=0.1)


STAGES = [
    *[(engine, micro_batches, "buckets", "fp32") for engine in ENGINES for micro_batches in (1, 2)],
    *[("native", 1, "once", "fp32"), ("native", 2, "once", "bf16"), ("zero3", 1, "buckets", "bf16")],
]
"""(engine, micro-batches, engine.reduce, engine.reduce_precision)"""


def peaks_of_eight(_: int) -> list[tuple[float, int]]:
    """(planned, measured) of one of eight ranks, the others not there, under each engine; with the products of cards."""
    dist.destroy_process_group()
    cpu.prefers_onednn = lambda: False
    device = DeviceConfig(name="cpu")
    configs = [
        BenchMemoryConfig(4, micro_batches, False, engine, 8, *way, model=SMALL, objective=OBJECTIVE, device=device)
        for engine, micro_batches, *way in STAGES
    ]
    ranks, _ = join(7, 8)
    peaks = [compare(config, CpuDevice(device, 0), ranks) for config in configs]
    return [(peak.planned.total, peak.measured) for peak in peaks]


def test_the_plan_of_every_stage_is_within_a_tenth_of_real_steps():
    pytest.importorskip("deepspeed")
    for stage, (planned, measured) in zip(STAGES, run_ranks(peaks_of_eight, 1)[0], strict=True):
        print(*stage, f"{planned / measured - 1:+.1%}")
        assert planned == pytest.approx(measured, rel=0.1), stage


def test_the_peak_is_a_line_in_the_pairs(memory):
    direct = trace(RUN, 16, False, FUSED)
    use = memory.use("native", 16, accumulates=True)
    assert use.activations == pytest.approx((direct.activations + direct.copies).max(), rel=0.01)
    assert memory.per_pair_kept * 16 == pytest.approx(sum(direct.kept.values()), rel=0.05)


def test_gradients_come_while_activations_go(memory):
    alone, together = memory.use("native", 16), memory.use("native", 16, cards=2)
    assert alone.gradients < together.gradients == 4 * memory.parameters
    assert alone.total < together.total
    accumulated = memory.use("native", 16, cards=2, accumulates=True)
    assert accumulated.gradients == 8 * memory.parameters, "the buckets and what adds up"
    assert memory.use("native", 1, 2, True).total >= sum(states("native", memory.parameters, memory.trained, 2))


def test_states_by_hand():
    P = 10 * ZERO_BUCKET
    assert states("native", P, P, 1) == (4 * P, 4 * P, 8 * P)
    assert states("native", P, P, 8) == (4 * P, 8 * P, 8 * P)
    assert sum(states("zero1", P, P, 8)) == 8 * P + 4 * ZERO_BUCKET + 12 * P / 8
    assert sum(states("zero1", 1000, 1000, 8)) == 12 * 1000 + 12 * 1000 / 8
    assert sum(states("zero2", P, P, 8)) == 4 * P + 16 * P / 8
    assert sum(states("zero3", P, P, 8)) == 20 * P / 8 + 4 * ZERO_BUCKET
    half = Precision(moments=4, sent=2)
    assert states("native", P, P, 8, half) == (4 * P, 8 * P, 4 * P)
    assert sum(states("zero3", P, P, 8, half)) == 16 * P / 8 + 2 * ZERO_BUCKET


def test_one_all_reduce_holds_gradients_twice_without_activations(memory):
    once = replace(memory, precision=Precision(once=True))
    P, weights_and_moments = memory.parameters, 12 * memory.parameters
    assert once.use("native", 1, 8).total == weights_and_moments + 8 * P
    assert once.use("native", 16, 8, True).gradients == 4 * P < memory.use("native", 16, 8, True).gradients
    assert once.use("native", 16, 1) == memory.use("native", 16, 1)
    assert once.use("zero2", 16, 8) == memory.use("zero2", 16, 8)


def test_norms_by_layer_hold_the_weights_from_before_an_update(memory):
    watched = replace(memory, precision=Precision(watched=True))
    P = memory.parameters
    assert watched.use("native", 1).total == 20 * P == memory.use("native", 1).weights + 16 * P
    assert watched.use("zero2", 1, 4) == memory.use("zero2", 1, 4), "a rank keeps its part, and a bucket is more"
    assert watched.use("native", 64) == memory.use("native", 64), "activations are more"


def test_each_stage_holds_less():
    big = replace(SMALL, vocab_size=50_000, text_layers=8)
    memory = measure(run_config(big, OBJECTIVE), FUSED, checkpointing=False)
    totals = [memory.use(engine, 2, 64).total for engine in ENGINES[:3]]
    assert totals == sorted(totals, reverse=True)
    assert memory.use("zero0", 2, 64) == memory.use("native", 2, 64)


def test_a_bucket_is_there_from_the_first_gradient_on(memory):
    """The peak is where the backward pass begins, but where gradients outweigh what the activations were."""
    P, cards = memory.parameters, 1000
    assert memory.use("zero2", 64, cards).gradients == pytest.approx(4 * P + 4 * P / cards)
    assert memory.use("zero2", 64, cards, True).gradients == pytest.approx(4 * P + 8 * P / cards)
    assert memory.use("zero1", 64, cards, True).gradients == pytest.approx(8 * P)
    assert memory.use("zero1", 2, cards).gradients == pytest.approx(8 * P, rel=0.05)
    assert memory.use("zero3", 2, cards).gradients == pytest.approx(8 * P + 4 * P / cards), "a bucket and its copy"


def test_the_most_pairs_are_the_most_that_fit(memory):
    room = memory.use("zero2", 37, 8).total
    assert memory.most_pairs(room, "zero2", 8) == 37
    assert memory.most_pairs(room - 1, "zero2", 8) == 36
    assert memory.most_pairs(1e5, "zero2", 8) == 0


def test_the_contrast_grows_with_all_ranks(memory):
    entry = contrast_entry(RUN)
    assert entry == pytest.approx(memory.entry)
    assert 3 * 4 <= entry < 20 * 4, "three terms, a few float32 each"
    grown = memory.use("native", 64, 512).activations - memory.use("native", 64, 2).activations
    keys = 2 * 16 * 4  # image and fused pair
    assert grown == pytest.approx(64 * 64 * 510 * entry + 3 * keys * 64 * 510)
    assert measure(run_config(SMALL, ObjectiveConfig(itc=0)), FUSED, False).entry == 0


def test_fused_attention_and_checkpointing_keep_less(memory):
    unfused = measure(RUN, PLAIN, checkpointing=False)
    again = measure(RUN, FUSED, checkpointing=True)
    assert unfused.per_pair_kept > memory.per_pair_kept > 2 * again.per_pair_kept
    assert again.use("native", 32).total < memory.use("native", 32).total
    # The input of each block: images once, texts in two views, float32.
    tokens = SMALL.vision_layers * SMALL.image_tokens + 2 * SMALL.text_layers * SMALL.max_text_len
    assert again.per_pair_kept > tokens * SMALL.width * 4
