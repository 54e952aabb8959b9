"""The plan: bottleneck, what fits, what more cards bring, and how wrong input is answered."""

import json
import re
from dataclasses import replace
from itertools import pairwise

import fsspec
import pytest
from plans import LARGE, small_plan, synthetic_memories

from bridgetower_train.cli import main
from bridgetower_train.config import CheckpointConfig, DataConfig, EngineConfig, OptimConfig
from bridgetower_train.data.manifest import Manifest, ShardInfo
from bridgetower_train.errors import ConfigError
from bridgetower_train.pages.plan import plan_page
from bridgetower_train.planning.corpora import PUBLISHED, RECORD_BYTES, count
from bridgetower_train.planning.estimate import Plan, best_micro_batch, estimate, make_plan, plan_from, run_samples
from bridgetower_train.planning.hardware import Cluster, parse
from bridgetower_train.planning.loading import core_rate
from bridgetower_train.planning.memory import Precision
from bridgetower_train.tasks import step_flops
from data_prep.shapes.synthetic import synthetic_corpus


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_from(small_plan(), synthetic_memories())


def test_the_run_as_configured(plan):
    here = plan.here
    assert (here.pairs, here.micro_batch, here.global_batch) == (4, 4, 2048)
    assert here.fits
    assert here.bottleneck == max(here.times, key=here.times.get) == "links"
    assert here.fastest <= here.expected <= here.slowest
    assert plan.samples == 2e8
    assert plan.steps == 2e8 / 2048
    assert plan.run_time(here, 0.5) == pytest.approx(2e8 / 2048 * 0.5)
    assert plan.checkpoint_bytes == 12 * plan.memory.parameters
    assert here.host_samples_per_s == pytest.approx(2048 / here.expected / 64)


def test_the_scan_covers_8_to_4096_cards(plan):
    assert [p.cluster.cards for p in plan.same_pairs] == [2**k for k in range(3, 13)]
    assert {p.pairs for p in plan.same_pairs} == {4}
    assert [p.cluster.cards for p in plan.same_batch] == [2**k for k in range(3, 11)], "a lane gives two pairs at least"
    assert {p.pairs * p.cluster.cards for p in plan.same_batch} == {2048}
    for points in (plan.same_pairs, plan.same_batch):
        rates = [p.samples_per_s / p.cluster.cards for p in points if not p.contrast.two_passes]
        assert len(rates) > 2
        assert all(later <= before * 1.0001 for before, later in pairwise(rates))
        assert [p for p in points if p.cluster.cards == 512] == [plan.here]
    assert plan.same_batch[-1].links_share > plan.same_batch[0].links_share


def test_a_slow_loader_is_the_bottleneck(plan):
    config = small_plan(decode_rate=10.0)
    slow = estimate(config, plan.cluster, 2048, 4, plan.memory, plan.flops)
    assert slow.bottleneck == "loader"
    assert slow.expected == slow.fastest == 4 / (2 * 10)


def test_a_run_that_does_not_fit_is_reported(plan):
    config = small_plan(reserve=0.9999)
    here = estimate(config, plan.cluster, 2048, 4, plan.memory, plan.flops)
    assert not here.fits
    assert here.bottleneck == "size of the card's memory"
    (remark,) = (r for r in replace(plan, config=config, here=here).remarks if "does not fit" in r)
    assert "engine.activation_checkpointing=true" in remark
    assert "zero2" in remark


def test_the_micro_batch_divides_what_fits(plan):
    cluster = Cluster(plan.cluster.card, 8)
    room = plan.memory.use("native", 50, 8, accumulates=True).total
    config = small_plan(reserve=1 - room / cluster.card.memory)
    best = best_micro_batch(config, cluster, 256, plan.memory)
    assert best == 32
    assert best_micro_batch(small_plan(), cluster, 64, plan.memory) == 64


def test_checkpoints_that_come_too_often_are_remarked(plan):
    often = small_plan(checkpoint=CheckpointConfig(every="1"), disk=0.01)
    assert any("checkpoint.every=1" in remark for remark in replace(plan, config=often).remarks)
    seldom = small_plan(disk=100.0)
    assert replace(plan, config=seldom).remarks == ["The size of corpus mine is unknown; it is left out."]


@pytest.mark.parametrize(("every", "steps"), [("4", 4), ("2 epochs", None), ("10%", 1000), ("3000 samples", 2)])
def test_the_interval_of_checkpoints_is_a_duration(plan, every, steps):
    """Of a run of 10,000 steps of 2,048 samples from a corpus of unknown size."""
    config = small_plan(checkpoint=CheckpointConfig(every=every), steps="10000")
    found = replace(plan, config=config, samples=10_000 * 2048.0)
    assert found.checkpoint_interval == (steps and pytest.approx(steps * plan.here.expected))
    assert "one every" in plan_page(found)


def test_recomputed_blocks_cost_a_third(plan):
    config = small_plan(engine=EngineConfig(activation_checkpointing=True))
    again = plan_from(config, synthetic_memories())
    assert again.flops.step == pytest.approx(plan.flops.step * 4 / 3)
    assert again.here.use.activations < plan.here.use.activations


@pytest.mark.parametrize(
    ("until", "share"),
    [("95%", 0.05), ("100%", 0.0), ("0%", 1.0), ("5000", 0.5), ("2e20 samples", 0.0), ("1 epochs", 0.0)],
)
def test_patches_that_are_left_out_cost_nothing_until_the_last_steps(plan, until, share):
    """Of 10,000 steps on a corpus of unknown size; the mean of both kinds of step, as a whole run takes."""
    config = small_plan(steps="10000", model=replace(LARGE, patch_dropout=0.5, patch_dropout_until=until))
    found = plan_from(config, synthetic_memories()).flops
    least, most = step_flops(replace(config, model=replace(LARGE, patch_dropout=0.5))), step_flops(small_plan())
    assert most == plan.flops.step
    assert least < 0.6 * most
    assert found.step == pytest.approx((1 - share) * least + share * most)
    assert plan.flops.first_pass / 2 < found.first_pass <= plan.flops.first_pass


def test_one_all_reduce_in_bf16_halves_the_links_and_overlaps_nothing(plan):
    config = small_plan(engine=EngineConfig(reduce="once", reduce_precision="bf16"))
    memory = replace(plan.memory, precision=Precision.of(config))
    here = estimate(config, plan.cluster, 2048, 4, memory, plan.flops)
    gradients, before = (next(c for c in e.calls if c.what == "gradients") for e in (here, plan.here))
    assert gradients.size == before.size / 2
    assert here.step.links["gradients"] == pytest.approx(plan.here.step.links["gradients"] / 2)
    assert (here.step.overlaps, plan.here.step.overlaps) == (False, True)
    page = plan_page(replace(plan, config=config, here=here, memories={False: memory, True: memory}))
    assert "nothing overlaps, since engine.reduce=once" in page


def test_samples_are_counted(tmp_path):
    known = count(DataConfig(root=str(tmp_path), corpora={"coco": 1.0, "sbu": 0.5, "mine": 1.0}), 294)
    assert known.samples == PUBLISHED["coco"][1] + 0.5 * PUBLISHED["sbu"][1]
    assert known.record_bytes == pytest.approx(RECORD_BYTES)
    assert (known.published, known.unknown) == (["coco", "sbu"], ["mine"])
    (tmp_path / "mine").mkdir()
    manifest = Manifest("mine", 294, "json", [ShardInfo("000000.tar", 5000, 10, 30, "")], 10, 30, "")
    (tmp_path / "mine" / "manifest.json").write_text(manifest.to_json())
    one = count(DataConfig(root=str(tmp_path), corpora={"mine": 2.0}, captions="one"), 294)
    assert (one.images, one.samples, one.bytes, one.unknown) == (10, 20, 5000, [])
    assert count(DataConfig(root=f"file://{tmp_path}/", corpora={"mine": 2.0}, captions="one"), 294) == one
    remote = DataConfig(root="memory://corpora", corpora={"mine": 2.0}, captions="one")
    fsspec.filesystem("memory").pipe("/corpora/mine/manifest.json", manifest.to_json().encode())
    assert count(remote, 294) == one
    assert run_samples(small_plan(steps="3 epochs"), one) == 60
    assert run_samples(small_plan(steps="3 epochs"), known) is None
    assert run_samples(small_plan(steps="10"), known) == 20480


def test_cards_without_a_peak_take_what_is_given():
    assert small_plan().achieved(None) == [1e13, 2e13, 4e13]
    assert small_plan(tflops=[50.0]).achieved(432e12) == [5e13]
    assert small_plan(utilisation=[0.5, 0.25]).achieved(100.0) == [25.0, 50.0]


def test_wrong_keys_are_named():
    for changes, part in [
        ({"hardware": "gaudi4x8"}, "did you mean"),
        ({"hardware": "gaudi2x1024"}, "data.lanes=512: must be a multiple of the 1024 ranks"),
        ({"hardware": "gaudi2x64", "micro_batch": 20}, "micro_batch=20"),
        (
            {"hardware": "h200x64", "optim": OptimConfig(moments="bf16")},
            "device cuda uses, keeps moments in the weights' type",
        ),
        ({"engine": EngineConfig(reduce_precision="bf16")}, "add engine.reduce=once"),
        ({"engine": EngineConfig("zero2", reduce="once")}, "use engine=native"),
    ]:
        with pytest.raises(ConfigError, match=part):
            make_plan(small_plan(**changes))
    for changes in ({"utilisation": [1.5]}, {"pairs": []}, {"reserve": 1.0}, {"disk": 0.0}, {"tflops": [0.0]}):
        with pytest.raises(ConfigError, match=next(iter(changes))):
            small_plan(**changes)
    assert parse("gaudi2x8").hosts == 1


def test_cores_are_measured_on_a_corpus_that_is_here(tmp_path):
    synthetic_corpus(tmp_path / "mine", 64, images=2, records=4)
    for root, whose in ((str(tmp_path), "of mine"), ("https://nowhere.example/shards", "drawn")):
        data = DataConfig(root=root, corpora={"absent": 1.0, "mine": 1.0})
        rate, of = core_rate(small_plan(data=data))
        assert of == whose
        assert rate > 1


def test_the_command_prints_and_writes_a_page(tmp_path, capsys):
    page = tmp_path / "plan.html"
    arguments = [
        "plan",
        "model=tiny",
        "tokenizer=none",
        "pairs=[4,8]",
        "steps=100",
        f"out={page}",
    ]
    arguments += [
        "hardware=gaudi1x16",
        "data.lanes=16",
        "global_batch=64",
        "device.precision=bf16",
        "data.root=nowhere",
    ]
    assert main(arguments) == 0
    printed, progress = capsys.readouterr()
    assert printed.startswith("An estimate")
    assert "model.vocab_size is null: planned with 50,265 tokens" in progress
    assert progress.count("tracing a step") == 2
    assert "no published peak" in printed
    assert "at 10, 20, 40 TFLOP/s" in printed
    assert re.search(
        r"cores       one of this machine .* samples/s at 64 px \(drawn, measured\); .*, eight cards ", printed
    )
    rows = [line.split("|")[1:-1] for line in printed.splitlines() if re.match(r"\| [\dnz]", line)]
    assert [row[0].strip() for row in rows[:2]] == ["native", "zero1"]
    assert {len(row) for row in rows} == {5, 11}
    assert json.dumps(str(page))[1:-1] in printed
    assert page.read_text().startswith("<!doctype html>")
