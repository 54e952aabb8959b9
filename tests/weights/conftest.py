"""Random towers and models in other people's forms."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import pretraining, randomize
from torch import Tensor, nn

from bridgetower_train.cli import main
from bridgetower_train.config import InitConfig, ObjectiveConfig
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.distributed import Ranks
from bridgetower_train.model.bridgetower import BridgeTower
from bridgetower_train.weights.initial import start_weights
from data_prep.shapes.tokenizer import train_tokenizer
from tests.tiny import SMALL
from tests.training.runs import export_here, train_here

ALL_LOSSES = ObjectiveConfig(itc_dim=24)


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> CaptionTokenizer:
    """A tokenizer of 300 entries at most, and its file as `text.path`."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    captions = [f"{a} {b} beside {c}" for a in ("red", "blue") for b in ("house", "tree") for c in ("water", "road")]
    train_tokenizer(captions * 3, 300).save(str(path))
    text = CaptionTokenizer.load(str(path))
    text.path = path
    return text


@pytest.fixture(scope="session")
def run(shapes_root, tmp_path_factory) -> Path:
    """A run of three steps with all losses, evaluated. Do not write to it."""
    run_dir = tmp_path_factory.mktemp("runs") / "little"
    train_here(shapes_root, run_dir, "steps=3", "checkpoint.every=1", "model.image_size=48", "objective.itc_dim=40")
    assert main(["eval", f"run_dir={run_dir}"]) == 0
    return run_dir


@pytest.fixture(scope="session")
def folder(run, tmp_path_factory) -> Path:
    """Its export. Do not write to it."""
    return export_here(run, tmp_path_factory.mktemp("exports") / "little")


@pytest.fixture
def build(text):
    """`build(objective, init=..., **changes of SMALL)`: (model, what was said)."""

    def build(
        objective: ObjectiveConfig = ALL_LOSSES, ranks: Ranks | None = None, **keys
    ) -> tuple[BridgeTower, list[str]]:
        init = InitConfig(**{k: str(v) for k, v in keys.items() if k in ("vision", "text", "checkpoint")})
        changes = {k: v for k, v in keys.items() if k not in ("vision", "text", "checkpoint")}
        torch.manual_seed(0)
        task = pretraining(replace(SMALL, vocab_size=text.vocab_size, **changes), objective)
        return task.model.eval(), start_weights(task, init, text, ranks or Ranks(0, 1, None)).lines

    return build


def clip_vision(image_size: int = 32, **changes):
    """transformers.CLIPVisionModel of the form of SMALL, all weights random."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = {
        "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 2, "patch_size": 8,
        "image_size": image_size, "projection_dim": 32, **changes,
    }  # fmt: skip
    model = CLIPVisionModel(CLIPVisionConfig(**config)).eval()
    randomize(model)
    return model


def openai_names(model: nn.Module) -> dict[str, Tensor]:
    """The weights of a CLIPVisionModel as OpenAI's files name them, with some of what else is in those."""
    ours = {
        "text_projection": torch.zeros(4, 4), "positional_embedding": torch.zeros(7, 4), "logit_scale": torch.tensor(4.6),
        "token_embedding.weight": torch.zeros(9, 4), "ln_final.weight": torch.zeros(4), "visual.proj": torch.zeros(128, 4),
        "transformer.resblocks.0.ln_1.weight": torch.zeros(4), "input_resolution": torch.tensor(224),
        "context_length": torch.tensor(77), "vocab_size": torch.tensor(9),
    }  # fmt: skip
    theirs = {name.removeprefix("vision_model."): t for name, t in model.state_dict().items()}
    for name, tensor in theirs.items():
        if "position_ids" in name or any(f"{letter}_proj" in name for letter in "kv"):
            continue
        if ".q_proj." in name:
            tensor = torch.cat([theirs[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"])
        for old, new in (
            ("embeddings.class_embedding", "class_embedding"), ("embeddings.patch_embedding", "conv1"),
            ("embeddings.position_embedding.weight", "positional_embedding"), ("pre_layrnorm", "ln_pre"),
            ("post_layernorm", "ln_post"), ("encoder.layers", "transformer.resblocks"), ("self_attn.q_proj.", "attn.in_proj_"),
            ("self_attn", "attn"), ("layer_norm", "ln_"), ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"),
        ):  # fmt: skip
            name = name.replace(old, new)
        ours[f"visual.{name}"] = tensor.clone()
    return ours


def roberta(vocab_size: int, **changes):
    """transformers.RobertaModel of the form of SMALL, all weights random."""
    from transformers import RobertaConfig, RobertaModel

    config = {
        "vocab_size": vocab_size, "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 2,
        "intermediate_size": 512, "max_position_embeddings": 20, "type_vocab_size": 1, "layer_norm_eps": 1e-5, **changes,
    }  # fmt: skip
    model = RobertaModel(RobertaConfig(**config)).eval()
    randomize(model)
    return model


def save_torchscript(weights: dict[str, Tensor], path: Path) -> None:
    """Write `weights` as a traced module tree, as OpenAI's files are."""

    class Node(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1

    root = Node()
    for name, tensor in weights.items():
        *parents, leaf = name.split(".")
        node = root
        for parent in parents:
            if not hasattr(node, parent):
                node.add_module(parent, Node())
            node = getattr(node, parent)
        if tensor.is_floating_point():
            node.register_parameter(leaf, nn.Parameter(tensor))
        else:
            node.register_buffer(leaf, tensor)
    torch.jit.save(torch.jit.trace(root, torch.zeros(1)), str(path))
