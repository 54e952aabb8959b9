"""Text buckets and the profile."""

import gzip
import json
import re
import subprocess
from dataclasses import replace

import pytest

from bridgetower_train.cli import main
from bridgetower_train.config import ProfileConfig
from bridgetower_train.errors import ConfigError
from bridgetower_train.tasks import flops_by_shape, step_flops
from bridgetower_train.training.assembly import Run
from bridgetower_train.weights.saved import read_config
from tests.training.runs import losses, metric_lines, train_command, train_here


def test_buckets_change_no_loss(tmp_path, train, reference):
    options = ["steps=10", "model.dropout=0", "objective.itc=0", "micro_batch=2"]
    train(tmp_path, *options, "data.text_buckets=[12,16]")
    padded = losses(reference(*options))
    assert losses(tmp_path) == pytest.approx(padded, abs=1e-5)
    assert losses(tmp_path) != padded, "sums over fewer tokens round otherwise"


def test_what_buckets_save_is_counted(shapes_root, tmp_path, capsys, monkeypatch):
    shapes = []
    count = Run.count
    monkeypatch.setattr(
        Run, "count", lambda run, step, batches: shapes.extend(b.shape for b in batches) or count(run, step, batches)
    )
    train_here(shapes_root, tmp_path, "steps=4", "micro_batch=2", "data.text_buckets=[14,18,99]")
    config = read_config(tmp_path)
    flops = flops_by_shape(config)
    for shape, of_shape in flops.items():
        assert of_shape == step_flops(replace(config, model=replace(config.model, max_text_len=shape.tokens)))
    assert len(shapes) == 16
    assert {shape.tokens for shape in shapes} == {14, 18, 24} == {shape.tokens for shape in flops}
    least, longest = min(flops.values()), max(flops.values())
    said = capsys.readouterr().out
    assert (
        f"texts     padded to 14, 18 or 24 tokens, the least that fits a micro-batch; at 14 a step is {least / longest:.0%} of"
        in said
    )
    saved = 1 - sum(flops[shape] for shape in shapes) / (len(shapes) * longest)
    assert f"texts     padded to what fits them: {saved:.0%} of the work was saved" in said


def test_profile(tmp_path, train):
    train(tmp_path, "steps=4", "profile.steps=2:3")
    table = (tmp_path / "profile" / "operations.txt").read_text()
    assert table.startswith("steps 2 to 3")
    assert "aten::addmm" in table
    with gzip.open(tmp_path / "profile" / "trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    assert "aten::addmm" in {event.get("name") for event in events}


@pytest.mark.parametrize("steps", ["5", "0:3", "7:3", "a:b"])
def test_wrong_steps_are_refused(steps):
    with pytest.raises(ConfigError, match=f"profile.steps={steps}: give the first and the last step, as in 10:15"):
        ProfileConfig(steps)


def test_a_full_dev_shm_is_named(tmp_path, start):
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces")
    small = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"'
    output = start(
        tmp_path, "steps=20", "data.workers=1", command=[*alone, "sh", "-c", small, "sh", *train_command()]
    ).finish(1)
    assert re.search(r"error: /dev/shm has no room for a batch \(.+\); lower data.workers=1 or data.prefetch=4", output)
    assert "Traceback" not in output


def test_norms_by_layer_are_logged_and_change_nothing(tmp_path, shapes_root, capsys):
    train_here(shapes_root, tmp_path / "plain", "steps=5")
    train_here(shapes_root, tmp_path / "layers", "steps=5", "metrics.layers_every=2", "tensorboard=true")
    assert "_norm/" not in capsys.readouterr().out
    lines = metric_lines(tmp_path / "layers")
    norms = [{name: line.pop(name) for name in [*line] if "_norm/" in name} for line in lines]
    assert lines == metric_lines(tmp_path / "plain")
    assert [len(found) > 0 for found in norms] == [False, True, False, True, False]
    assert (
        {"weight_norm/image.1", "grad_norm/fusion.text.1", "update_norm/itm_score"} < norms[1].keys() == norms[3].keys()
    )
    assert main(["report", f"run_dir={tmp_path / 'layers'}"]) == 0
    page = (tmp_path / "layers" / "report.html").read_text()
    assert "Norms at step 4" in page
    assert "fusion.text.1" in page
    train_here(shapes_root, tmp_path / "no", "steps=5", "metrics.layers_every=3", "log_every=2", code=2)
    assert "metrics.layers_every=3: must be a multiple of log_every=2" in capsys.readouterr().err
