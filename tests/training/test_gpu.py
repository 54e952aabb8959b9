"""The same runs on a GPU."""

import pytest
import torch

from tests.tiny import TINY
from tests.training.runs import losses, metric_lines

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def test_a_gpu_computes_what_the_cpu_computes(tmp_path, train, reference):
    options = ["steps=10", "model.dropout=0"]
    train(tmp_path, *options, "device=cuda", "device.precision=fp32", "data.workers=2")
    assert losses(tmp_path) == pytest.approx(losses(reference(*options)), rel=5e-3)


@pytest.mark.parametrize("compiled", ["eager", "compile"])
def test_bf16_trains(tmp_path, train, compiled):
    output = train(tmp_path, "steps=20", "device=cuda", f"device.execution={compiled}", "data.workers=2")
    assert "device    cuda" in output
    first, *_, last = (line["loss"] for line in metric_lines(tmp_path))
    assert last < first


def test_a_step_never_waits_for_the_device(shapes_root):
    """set_sync_debug_mode raises at the first operation that would."""
    from helpers import open_pairs, pretraining

    from bridgetower_train import compose
    from bridgetower_train.config import DeviceConfig, TrainConfig
    from bridgetower_train.data.text import CaptionTokenizer
    from bridgetower_train.devices import make_device
    from bridgetower_train.distributed import Ranks
    from bridgetower_train.engines import NativeEngine
    from bridgetower_train.tasks import Contrast
    from bridgetower_train.training.step import backward

    config = compose.compose(
        TrainConfig, "train", [*TINY, f"data.root={shapes_root}", "run_dir=x", "optim.clip_norm=1"]
    )
    text = CaptionTokenizer.load(config.tokenizer)
    device, _ = make_device(DeviceConfig(name="cuda", precision="bf16"))
    task = pretraining(config.model.with_vocabulary(text.vocab_size), config.objective).to(device.torch_device)
    engine = NativeEngine(task, device, Ranks(0, 1, None), config.optim)
    batch = open_pairs(config, text).__getitems__(list(range(8)))
    batch = batch.to(device.torch_device)
    compared = Contrast(len(batch.image_id), len(batch.image_id), 1, 1)
    for _ in range(2):  # the first step may still set things up
        backward(engine, [batch], compared, device.seed)
        engine.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        backward(engine, [batch], compared, device.seed)
        engine.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
