"""Microsoft's fine-tuned checkpoints: files built here with their names, their shapes and what Lightning pickles beside them.

None of the published files was tried.
"""

import sys
import types
from pathlib import Path

import pytest
import torch
from helpers import randomize
from torch import Tensor

from bridgetower_train.config import ClassifierConfig, InitConfig, TrainConfig
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.distributed import Ranks
from bridgetower_train.errors import ConfigError
from bridgetower_train.tasks import TASKS, Task
from bridgetower_train.weights.initial import start_weights
from tests.tiny import SMALL
from tests.weights.test_checkpoints import microsoft

LABELS = {"vqav2": 3129, "snli_ve": 3, "nlvr2": 2}


@pytest.fixture
def lightning(monkeypatch) -> type:
    """A class such as those of which Lightning pickles the callbacks' names."""
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks", module.__name__):
        monkeypatch.setitem(sys.modules, name, module if name == module.__name__ else types.ModuleType(name))
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": module.__name__})  # type: ignore[attr-defined]
    return module.ModelCheckpoint


def task_of(name: str, text: CaptionTokenizer, labels: int | None = None, image_size: int = 32) -> Task:
    model = type(SMALL)(**{**vars(SMALL), "vocab_size": text.vocab_size, "image_size": image_size})
    return TASKS[name](TrainConfig(model=model, task=name, classifier=ClassifierConfig(labels or LABELS[name])))


def save(path: Path, weights: dict[str, Tensor], callback: type) -> None:
    """As `Trainer.save_checkpoint` of Lightning 1.3 writes it."""
    torch.save(
        {
            "epoch": 9, "global_step": 12340, "pytorch-lightning_version": "1.3.2", "state_dict": weights,
            "callbacks": {callback: {"monitor": "val/the_metric", "best_model_score": torch.tensor(78.7), "dirpath": "/x"}},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-5, "params": [0]}]}],
            "lr_schedulers": [{"base_lrs": [1e-5], "last_epoch": 3}], "native_amp_scaling_state": None,
            "hparams_name": "config", "hyper_parameters": {"config": {"loss_names": {"vqa": 1}, "image_size": 576}},
        },
        path,
    )  # fmt: skip


@pytest.mark.parametrize("name", LABELS)
def test_their_heads_and_types_of_tokens_load(name, text, lightning, tmp_path):
    theirs = task_of(name, text)
    randomize(theirs)
    save(tmp_path / "x.ckpt", microsoft(theirs.model), lightning)
    ours = task_of(name, text)
    start = start_weights(ours, InitConfig(checkpoint=str(tmp_path / "x.ckpt")), text, Ranks(0, 1, None))
    assert start.lines[-1] == "random: nothing"
    for key, tensor in ours.model.state_dict().items():
        torch.testing.assert_close(tensor, theirs.model.state_dict()[key], msg=key)


@pytest.mark.parametrize(("patch", "before", "after"), [(16, 288, 384), (14, 294, 574), (16, 288, 576)])
def test_positions_are_interpolated_to_the_sizes_of_the_recipes(patch, before, after):
    from bridgetower_train.weights.fit import interpolate_positions

    table = torch.randn(1 + (before // patch) ** 2, 8)
    found = interpolate_positions(table, after // patch)
    assert found.shape == (1 + (after // patch) ** 2, 8)
    assert torch.equal(found[0], table[0])


def test_a_task_starts_from_pretraining_and_back(text, tmp_path):
    pretrained = TASKS["pretraining"](TrainConfig(model=task_of("vqav2", text).config.model))
    randomize(pretrained)
    torch.save(pretrained.model.state_dict(), tmp_path / "p.ckpt")
    task = task_of("nlvr2", text, image_size=48)
    start = start_weights(task, InitConfig(checkpoint=str(tmp_path / "p.ckpt")), text, Ranks(0, 1, None))
    assert "positions interpolated (bicubic) from 4 x 4 to 6 x 6" in start.lines[0]
    assert "mlm_score" in start.lines[1]
    assert start.lines[-1] == "random: nlvr2_classifier"
    table = task.model.bridgetower.token_type_embeddings.weight
    assert torch.equal(table[2], table[1])
    assert torch.equal(table[:2], pretrained.model.bridgetower.token_type_embeddings.weight)
    torch.save(task.model.state_dict(), tmp_path / "n.ckpt")
    other = task_of("vqav2", text, 7, image_size=48)
    start = start_weights(other, InitConfig(checkpoint=str(tmp_path / "n.ckpt")), text, Ranks(0, 1, None))
    assert start.lines[-1] == "random: vqa_classifier"


def test_other_numbers_of_answers_are_named(text, lightning, tmp_path):
    save(tmp_path / "x.ckpt", microsoft(task_of("vqav2", text).model), lightning)
    with pytest.raises(ConfigError, match=r"classifier\.labels is 3129 in the file and 7 in this run"):
        start_weights(
            task_of("vqav2", text, 7), InitConfig(checkpoint=str(tmp_path / "x.ckpt")), text, Ranks(0, 1, None)
        )
