"""Norms by layer; those of ZeRO's engines are compared with these in test_zero."""

import re

import pytest
import torch
from helpers import pretraining, random_batch

from bridgetower_train.config import DeviceConfig, ObjectiveConfig, OptimConfig
from bridgetower_train.devices.cpu import CpuDevice
from bridgetower_train.distributed import Ranks
from bridgetower_train.engines import NativeEngine
from bridgetower_train.model.parts import layer_of
from bridgetower_train.tasks import Contrast
from bridgetower_train.training.step import backward
from tests.tiny import SMALL

LAYERS = {
    "logit_scale",
    *(f"{tower}.{layer}" for tower in ("image", "text") for layer in ("embeddings", 1, 2, 3, 4)),
    "image.top",
    "fusion",
    *(f"fusion.{stream}.{layer}" for stream in ("text", "image") for layer in (1, 2)),
    *("mlm_score", "itm_score", "itc_text_head", "itc_image_head", "itc_cross_modal_head"),
}


@pytest.mark.parametrize(("clip_norm", "limit"), [(0.0, None), (0.1, None), (0.0, 0.1)])
def test_each_layer_s_weights_gradients_and_update(clip_norm, limit):
    device = CpuDevice(DeviceConfig(), 0)
    torch.manual_seed(0)
    task = pretraining(SMALL, ObjectiveConfig(itc_dim=16))
    engine = NativeEngine(task, device, Ranks(0, 1, None), OptimConfig(lr=1e-3, clip_norm=clip_norm))
    backward(engine, [random_batch(SMALL, 4)], Contrast(4, 4, 1, 1), device.seed)
    gradients = {name: p.grad.clone() for name, p in task.model.named_parameters()}
    before = {name: p.detach().clone() for name, p in task.model.named_parameters()}
    figures = engine.step(None if limit is None else torch.tensor(limit), by_layer=True)
    after = {name: p.detach() for name, p in task.model.named_parameters()}
    tensors = {"grad": gradients, "weight": after, "update": {name: after[name] - before[name] for name in after}}
    for kind, of_parameters in tensors.items():
        squares = dict.fromkeys(LAYERS, 0.0)
        for name, tensor in of_parameters.items():
            squares[layer_of(name)] += float(tensor.double().square().sum())
        found = {name.partition("/")[2]: float(x) for name, x in figures.items() if name.startswith(f"{kind}_norm/")}
        assert found == pytest.approx({layer: square**0.5 for layer, square in squares.items()}, rel=1e-4)
    assert all(re.fullmatch(r"(weight|grad|update)_norm/.+|grad_norm|skipped", name) for name in figures)
    assert (float(figures["update_norm/image.1"]) == 0) == (limit is not None)
