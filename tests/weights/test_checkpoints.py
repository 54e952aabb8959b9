"""init.checkpoint: published BridgeTower folders, Microsoft's files, our own; and what does not fit."""

import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import pretraining, random_batch, randomize, run_config, run_ranks
from safetensors.torch import save_file
from torch import Tensor

from bridgetower_train.bench.hugging_face import hugging_face_config
from bridgetower_train.cli import main
from bridgetower_train.config import InitConfig, ObjectiveConfig
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.distributed import Ranks
from bridgetower_train.errors import ConfigError
from bridgetower_train.model.bridgetower import BridgeTower
from bridgetower_train.model.vision import normalize
from bridgetower_train.tasks.pretraining.itc import embed_image, embed_text
from bridgetower_train.weights.fit import listed
from bridgetower_train.weights.initial import start_weights
from tests.tiny import SMALL, TINY
from tests.training.runs import final_weights
from tests.weights.conftest import ALL_LOSSES, clip_vision, openai_names, roberta

CLASSES = {
    "BridgeTowerModel": set(),
    "BridgeTowerForMaskedLM": {"mlm_score"},
    "BridgeTowerForImageAndTextRetrieval": {"itm_score"},
    "BridgeTowerForContrastiveLearning": {"itc_text_head", "itc_image_head", "itc_cross_modal_head", "logit_scale"},
}


def published(text: CaptionTokenizer, name: str = "BridgeTowerForContrastiveLearning", **changes):
    """A random model of one of Hugging Face's classes."""
    import transformers

    config = type(SMALL)(**{**vars(SMALL), "vocab_size": text.vocab_size, **changes})
    model = getattr(transformers, name)(hugging_face_config(run_config(config, ALL_LOSSES)))
    randomize(model)
    return model.eval()


def microsoft(model: BridgeTower, pooler: bool = True) -> dict[str, Tensor]:
    """Our weights under the names of Microsoft's checkpoints, with what else is in those."""
    theirs = {"vit_model.positional_embedding": torch.zeros(77, 64)}
    theirs |= {f"vit_model.ln_final.{kind}": torch.zeros(64) for kind in ("weight", "bias")}
    theirs["text_transformer.embeddings.position_ids"] = torch.arange(20)[None]
    theirs |= {f"text_transformer.pooler.dense.{kind}": torch.zeros(1) for kind in ("weight", "bias")}
    for name, tensor in model.state_dict().items():
        if name == "logit_scale":
            theirs["temperature"] = (-tensor).exp()
            continue
        for old, new in (
            ("bridgetower.vision_model.visual.embeddings.class_embedding", "vit_model.visual.class_embedding"),
            ("bridgetower.vision_model.visual.embeddings.patch_embedding", "vit_model.visual.conv1"),
            ("bridgetower.vision_model.visual.embeddings.position_embedding.weight", "vit_model.visual.positional_embedding"),
            ("bridgetower.vision_model.", "vit_model."), ("bridgetower.text_model.", "text_transformer."), ("bridgetower.", ""),
        ):  # fmt: skip
            name = name.replace(old, new)
        theirs[name] = tensor.clone()
    return theirs


def assert_equal(model: BridgeTower, expected: dict[str, Tensor], but: tuple[str, ...] = ()) -> None:
    for name, tensor in model.state_dict().items():
        if not name.startswith(but):
            torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=1e-6, msg=name)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "bin"])
def test_published_folders(build, text, tmp_path, name, pickled):
    theirs = published(text, name)
    theirs.save_pretrained(tmp_path)
    if pickled:
        (tmp_path / "model.safetensors").unlink()
        torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    model, said = build(checkpoint=tmp_path)
    heads = {n.split(".")[0] for n in model.state_dict()} - {"bridgetower"}
    random = sorted(heads - CLASSES[name])
    assert said[-1] == f"random: {', '.join(random)}"
    expected = {n if n.startswith("bridgetower.") or name != "BridgeTowerModel" else f"bridgetower.{n}": t
                for n, t in theirs.state_dict().items()}  # fmt: skip
    assert_equal(model, expected, tuple(random))


def test_heads_that_no_loss_reads_are_left_out_and_named(build, text, tmp_path):
    published(text).save_pretrained(tmp_path)
    _, said = build(ObjectiveConfig(itm=0, itc=0), checkpoint=tmp_path)
    assert said[1:] == [
        "ignored, since no loss of this run uses them: itc_cross_modal_head, itc_image_head, itc_text_head, logit_scale",
        "random: mlm_score",
    ]


def test_another_resolution_is_interpolated(build, text, tmp_path):
    theirs = published(text)
    theirs.save_pretrained(tmp_path)
    model, said = build(checkpoint=tmp_path, image_size=48)
    assert "from 4 x 4 to 6 x 6" in said[0]
    assert model.bridgetower.vision_model.visual.embeddings.position_embedding.weight.shape == (37, 128)


@pytest.mark.parametrize("wrapped", [True, False])
def test_microsofts_checkpoints(build, tmp_path, wrapped):
    ours, _ = build()
    randomize(ours)
    weights = microsoft(ours)
    torch.save(
        {"epoch": 3, "state_dict": weights, "hyper_parameters": {"lr": 1e-5}} if wrapped else weights,
        tmp_path / "x.ckpt",
    )
    model, said = build(checkpoint=tmp_path / "x.ckpt")
    assert_equal(model, ours.state_dict())
    assert said[-1] == "random: nothing"
    # Their two-way contrast has no third head; the temperature is there even without contrast.
    for name in [n for n in weights if n.startswith(("itc_", "itm_", "mlm_"))]:
        del weights[name]
    torch.save(weights, tmp_path / "y.ckpt")
    _, said = build(ObjectiveConfig(itm=0, itc=0), checkpoint=tmp_path / "y.ckpt")
    assert said[1:] == ["ignored, since no loss of this run uses them: logit_scale", "random: mlm_score"]


def test_a_run_starts_from_another_run(shapes_root, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    run = ["train", *TINY, f"data.root={shapes_root}"]
    assert main([*run, f"run_dir={first}", "steps=2"]) == 0
    capsys.readouterr()
    start = [
        *run,
        f"run_dir={second}",
        f"init.checkpoint={first}",
        "optim.lr=0",
        "optim.lr_fusion=0",
        "optim.lr_heads=0",
    ]
    assert main([*start, "steps=1", "seed=5"]) == 0
    assert "step-00000002" in capsys.readouterr().out
    assert final_weights(second) == final_weights(first)
    # The same command goes on from its own checkpoint, whatever has become of the other run.
    shutil.rmtree(first)
    assert main([*start, "steps=2", "seed=5"]) == 0
    assert "from step 1 (ignoring init.checkpoint)" in capsys.readouterr().out
    assert json.loads((second / "checkpoints" / "step-00000002" / "state.json").read_text())["step"] == 2


def _two_ranks(rank: int, source: str, tokenizer: str) -> Tensor:
    import torch.distributed as dist

    torch.manual_seed(rank)  # so that they differ before
    text = CaptionTokenizer.load(tokenizer)
    task = pretraining(replace(SMALL, vocab_size=text.vocab_size), ALL_LOSSES)
    start_weights(
        task, InitConfig(checkpoint=source if rank == 0 else "/nowhere"), text, Ranks(rank, 2, dist.group.WORLD)
    )
    return torch.cat([p.detach().flatten() for p in task.parameters()])


def _two_ranks_fail(rank: int, tokenizer: str) -> str:
    import torch.distributed as dist

    text = CaptionTokenizer.load(tokenizer)
    task = pretraining(replace(SMALL, vocab_size=text.vocab_size), ALL_LOSSES)
    with pytest.raises(ConfigError) as caught:
        start_weights(task, InitConfig(checkpoint="/nowhere/x.ckpt"), text, Ranks(rank, 2, dist.group.WORLD))
    return str(caught.value)


def test_all_ranks_get_the_weights_that_the_first_reads(text, tmp_path):
    theirs = published(text)
    theirs.save_pretrained(tmp_path)
    first, second = run_ranks(_two_ranks, 2, str(tmp_path), str(text.path))
    assert torch.equal(first, second)
    assert torch.isin(theirs.itc_text_head.fc.weight.flatten()[:5], first).all()
    assert (
        run_ranks(_two_ranks_fail, 2, str(text.path)) == ["init.checkpoint=/nowhere/x.ckpt: no such file or folder"] * 2
    )


# --- what does not fit


def message(build, **keys) -> str:
    with pytest.raises(ConfigError) as caught:
        build(**keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_unknown_and_misshapen_tensors_are_listed(build, text, tmp_path):
    weights = published(text).state_dict()
    cross = "bridgetower.cross_modal_text_layers"
    for layer in (0, 1):
        del weights[f"{cross}.{layer}.output.dense.bias"]
    weights["bridgetower.stray.weight"] = torch.zeros(1)
    weights["cifar_classifier.0.bias"] = torch.zeros(1)
    weights["bridgetower.token_type_embeddings.weight"] = torch.zeros(4, 128)
    save_file(weights, tmp_path / "model.safetensors")
    said = message(build, checkpoint=tmp_path)
    assert said == (
        f"init.checkpoint={tmp_path}: does not fit the model: missing: {cross}.{{0-1}}.output.dense.bias; "
        "unknown: bridgetower.stray.weight, cifar_classifier.0.bias; "
        "of another shape: bridgetower.token_type_embeddings.weight (4, 128) instead of (2, 128)"
    )


@pytest.mark.parametrize("prefix", ["module.", "model.module."])
def test_the_prefix_of_a_wrapper_is_named(build, text, tmp_path, prefix):
    save_file({prefix + name: t for name, t in published(text).state_dict().items()}, tmp_path / "model.safetensors")
    assert message(build, checkpoint=tmp_path) == (
        f"init.checkpoint={tmp_path}: all its names begin with '{prefix}', as those of a wrapper do; save them without it"
    )


def test_names_of_layers_are_listed_together():
    names = [f"a.layer.{n}.bias" for n in (0, 1, 2, 5)] + ["a.layer.3.weight", "b"]
    assert listed(names) == "a.layer.{0-2,5}.bias, a.layer.3.weight, b"


def test_another_size_names_the_keys(build, text, tmp_path):
    published(text, width=192, vision_layers=5, text_positions=30).save_pretrained(tmp_path)
    said = message(build, checkpoint=tmp_path)
    assert "model.width is 192 in the file and 128 in this run" in said
    assert "model.vision_layers is 5 in the file and 4 in this run" in said
    assert "model.text_positions is 30 in the file and 20 in this run" in said
    assert "resblocks.4.attn.in_proj_weight" in said
    assert "of another shape" in said
    assert "objective.itc_dim is 24 in the file and 16 in this run" in message(
        build, objective=ObjectiveConfig(mlm=0, itm=0, itc_dim=16), checkpoint=tmp_path
    )


def test_another_vocabulary(build, text, tmp_path):
    roberta(50).save_pretrained(tmp_path / "fewer")
    assert f"model.vocab_size is 50 in the file and {text.vocab_size} in this run" in message(
        build, text=tmp_path / "fewer"
    )
    roberta(text.vocab_size).save_pretrained(tmp_path / "same")
    words = text.tokenizer.get_vocab()
    swapped = {**words, "a": words["b"], "b": words["a"]}
    (tmp_path / "same" / "vocab.json").write_text(json.dumps(swapped))
    assert "2 of its" in message(build, text=tmp_path / "same")
    (tmp_path / "same" / "vocab.json").write_text(json.dumps(words))
    build(text=tmp_path / "same")


def test_another_architecture(build, text, tmp_path):
    clip_vision(hidden_act="gelu").save_pretrained(tmp_path / "gelu")
    assert "hidden_act is 'gelu', here 'quick_gelu'" in message(build, vision=tmp_path / "gelu")
    clip_vision(num_attention_heads=4).save_pretrained(tmp_path / "heads")
    assert "4 attention heads are 32 wide" in message(build, vision=tmp_path / "heads")
    roberta(text.vocab_size, layer_norm_eps=1e-12).save_pretrained(tmp_path / "eps")
    assert "layer_norm_eps is 1e-12" in message(build, text=tmp_path / "eps")
    roberta(text.vocab_size).save_pretrained(tmp_path / "roberta")
    said = message(build, vision=tmp_path / "roberta")
    assert "hidden_act" in said


class _Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["torch", "plain pickle", "torchscript"])
def test_no_pickle_is_executed(build, tmp_path, form):
    source, trace = tmp_path / "x.ckpt", tmp_path / "executed"
    if form == "plain pickle":
        source.write_bytes(pickle.dumps(_Payload(trace)))
    else:
        torch.save({"state_dict": openai_names(clip_vision()), "x": _Payload(trace)}, source)
    if form == "torchscript":
        import zipfile

        with zipfile.ZipFile(source, "a") as archive:
            archive.writestr("x/constants.pkl", b"")
    said = message(build, vision=source)
    assert "only tensors are read" in said or "cannot be read" in said
    assert not trace.exists()
    pickle.loads(pickle.dumps(_Payload(trace)))
    assert trace.exists(), "the payload works"


def test_broken_files(build, text, tmp_path):
    published(text).save_pretrained(tmp_path, max_shard_size="1MB")
    parts = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(parts) > 2
    whole = parts[0].read_bytes()
    parts[0].write_bytes(whole[: len(whole) // 2])
    assert "cannot be read" in message(build, checkpoint=tmp_path)
    parts[0].unlink()
    assert "No such file" in message(build, checkpoint=tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "../../etc/x.safetensors"}}')
    assert "is not an index" in message(build, checkpoint=tmp_path)
    index.unlink()
    assert "has no weights" in message(build, checkpoint=tmp_path)
    (tmp_path / "x.ckpt").write_bytes(b"nothing of the kind")
    assert "cannot be read" in message(build, checkpoint=tmp_path / "x.ckpt")
    torch.save({"state_dict": {"a": 1}}, tmp_path / "y.ckpt")
    assert "is not a state dict" in message(build, checkpoint=tmp_path / "y.ckpt")
    torch.save({"epoch": 3, "model": {"a": torch.zeros(1)}}, tmp_path / "z.pth")
    assert "(names and tensors); that under its key 'model' is: save it alone" in message(
        build, checkpoint=tmp_path / "z.pth"
    )


@pytest.mark.parametrize(
    ("override", "part"),
    [("init.checkpoint=/nowhere/model.ckpt", "no such file"), ("init.visio=x", "did you mean init.vision=x?"),
     ("init.vision={wrong}", "does not fit the model"), ("init.text={wrong}", "missing"),
     ("init.checkpoint={wrong}", "does not fit the model")],
)  # fmt: skip
def test_a_run_that_cannot_start_exits_2_and_leaves_nothing(shapes_root, tmp_path, capsys, override, part):
    wrong = tmp_path / "wrong.safetensors"
    save_file({"a": torch.zeros(1)}, wrong)
    run_dir = tmp_path / "run"
    assert (
        main(
            ["train", *TINY, f"data.root={shapes_root}", f"run_dir={run_dir}", "steps=1", override.format(wrong=wrong)]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert part in error
    assert error.count("\n") == 1
    assert not run_dir.exists()


def test_towers_and_checkpoint_exclude_each_other():
    with pytest.raises(ConfigError, match=r"init\.checkpoint=a"):
        InitConfig(checkpoint="a", text="b")


def test_the_same_outputs_from_an_imported_model(build, text, tmp_path):
    """Names alone would not show two weights that were swapped."""
    theirs = published(text)
    theirs.save_pretrained(tmp_path)
    model, _ = build(checkpoint=tmp_path)
    batch = random_batch(SMALL, 3)
    with torch.no_grad():
        expected = theirs(
            input_ids=batch.input_ids, attention_mask=batch.text_mask.long(),
            pixel_values=normalize(batch.pixel_values, torch.float32),
        )  # fmt: skip
        texts = embed_text(model, model.encode_text(batch.input_ids, batch.text_mask).cls)
        images = embed_image(model, model.encode_image(batch.pixel_values), "hf")
    torch.testing.assert_close(texts, expected.text_embeds, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(images, expected.image_embeds, atol=1e-5, rtol=1e-5)
