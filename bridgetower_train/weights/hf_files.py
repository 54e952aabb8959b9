"""The files by which transformers' BridgeTower classes know a model, a tokenizer and how to prepare images."""

import json
from collections.abc import Mapping
from typing import Any

from bridgetower_train.config import ROBERTA_POSITION_OFFSET, TrainConfig
from bridgetower_train.data.text import END, MASK, PAD, START, CaptionTokenizer
from bridgetower_train.errors import ConfigError
from bridgetower_train.model.vision import CLIP_MEAN, CLIP_STD
from bridgetower_train.tasks import task_class

ENTRY = "bridgetower_train"
"""Entry of `config.json` with what neither its other entries nor the tensors tell a later reader."""


def loadable_classes(config: TrainConfig) -> list[str]:
    """transformers' classes that find all their weights in a model of this run, the last head's first."""
    heads = reversed(task_class(config).heads(config))
    return [*dict.fromkeys(head.exported_class for head in heads if head.exported_class), "BridgeTowerModel"]


def model_description(config: TrainConfig, calibration: Mapping[str, float] | None = None) -> dict[str, Any]:
    """`config.json`; `calibration`: corpus -> expected calibration error of image-text matching."""
    model, exported = config.model, task_class(config).exported(config)
    shared = {"hidden_size": model.width, "initializer_factor": 1, "layer_norm_eps": model.layer_norm_eps}
    activation = {"hidden_act": "gelu", "num_attention_heads": model.heads}
    return {
        "architectures": loadable_classes(config)[:1],
        "model_type": "bridgetower",
        "torch_dtype": "float32",
        **shared,
        **activation,
        "num_hidden_layers": model.fusion_layers,
        "share_cross_modal_transformer_layers": True,
        "share_link_tower_layers": False,
        "link_tower_type": "add",
        "init_layernorm_from_vision_encoder": False,
        "tie_word_embeddings": False,
        **exported.description,
        ENTRY: {
            "task": config.task,
            "max_text_len": model.max_text_len,
            "square": config.data.square,
            "precision": config.device.precision,
            **exported.settings,
            **({"calibration": dict(calibration)} if calibration else {}),
        },
        "text_config": {
            "model_type": "bridgetower_text_model",
            **shared,
            **activation,
            "vocab_size": model.vocab_size,
            "num_hidden_layers": model.text_layers,
            "intermediate_size": 4 * model.width,
            "hidden_dropout_prob": model.dropout,
            "attention_probs_dropout_prob": model.dropout,
            "max_position_embeddings": model.text_positions,
            "type_vocab_size": 1,
            "pad_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "tie_word_embeddings": False,
        },
        "vision_config": {
            "model_type": "bridgetower_vision_model",
            **shared,
            "num_hidden_layers": model.vision_layers,
            "num_channels": 3,
            "patch_size": model.patch_size,
            "image_size": model.image_size,
            "stop_gradient": False,
            "share_layernorm": True,
            "remove_last_layer": False,
        },
    }


def image_processor(size: int, square: str) -> dict[str, Any]:
    """`preprocessor_config.json` that gives images of `size` as in evaluation; `square` is `data.square`.

    The class resizes to a shorter edge of `size`, and a longer one of at most 1333/800 of it, then rounds both down to multiples
    of `size_divisor`, 32 unless told: 294 became 288, and the crop to 294 padded it with black. Where `crop_size` is left out it
    takes 288.

    With the divisor `size` it squashes: both edges are rounded down to it as long as they come out below twice as long. Images of
    2:1 and more come out too low, and the class raises ValueError. CLIP's processor squashes those too, but before version 5
    transformers reads this file with BridgeTower's class whatever it says.
    """
    shorter, divisor = size, 1
    if square == "squash":
        shorter, divisor = (2 * size * 800 - 1) // 1333, size  # the largest whose longer edge stays below 2 * size
    return {
        "image_processor_type": "BridgeTowerImageProcessor",
        "processor_class": "BridgeTowerProcessor",
        "do_resize": True,
        "size": {"shortest_edge": shorter},
        "size_divisor": divisor,
        "resample": 3,  # Pillow's number of bicubic
        "do_center_crop": True,
        "crop_size": {"shortest_edge": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(CLIP_MEAN),
        "image_std": list(CLIP_STD),
        "do_pad": True,
    }


def described_tokenizer(text: CaptionTokenizer, named: str) -> dict[str, Any]:
    """The contents of its `tokenizer.json`.

    ConfigError beginning with `named`, the key and its value, for one of a kind that RobertaTokenizer does not read.
    """
    described: dict[str, Any] = json.loads(text.tokenizer.to_str())
    model, split = described["model"], described["pre_tokenizer"] or {}
    if model["type"] != "BPE" or split.get("type") != "ByteLevel" or described["normalizer"] is not None:
        raise ConfigError(
            f"{named}: is not a byte-level BPE, the only kind that transformers' RobertaTokenizer reads; export a run with one"
        )
    if (text.start, text.end) != (0, 2):
        raise ConfigError(f"{named}: has {START} at {text.start} and {END} at {text.end}; RobertaTokenizer: 0 and 2")
    return described


def tokenizer_files(text: CaptionTokenizer, positions: int, named: str) -> dict[str, str]:
    """Name -> content of what RobertaTokenizer reads; `positions` are the rows of the model's position table.

    Errors: see `described_tokenizer`.
    """
    described = described_tokenizer(text, named)
    model, split = described["model"], described["pre_tokenizer"]
    ends = {"bos_token": START, "eos_token": END, "sep_token": END, "cls_token": START, "pad_token": PAD}
    ends["unk_token"] = "<unk>" if "<unk>" in text.tokenizer.get_vocab() else END
    mask = {"content": MASK, "lstrip": True, "normalized": False, "rstrip": False, "single_word": False}
    pairs = (pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])
    return {
        "tokenizer.json": text.tokenizer.to_str(),
        "vocab.json": json.dumps(model["vocab"], ensure_ascii=False) + "\n",
        "merges.txt": "\n".join(["#version: 0.2", *pairs]) + "\n",
        "special_tokens_map.json": _json({**ends, "mask_token": mask}),
        "tokenizer_config.json": _json(
            {
                "tokenizer_class": "RobertaTokenizer",
                "processor_class": "BridgeTowerProcessor",
                "model_max_length": positions - ROBERTA_POSITION_OFFSET,
                "add_prefix_space": split["add_prefix_space"],
                "trim_offsets": True,
                "errors": "replace",
                "clean_up_tokenization_spaces": False,
                **ends,
                "mask_token": {"__type": "AddedToken", **mask, "special": True},
            }
        ),
    }


def description_files(config: TrainConfig, calibration: Mapping[str, float]) -> dict[str, str]:
    """Name -> content of what describes the model, its images, and its training on Gaudi."""
    return {
        "config.json": _json(model_description(config, calibration)),
        "preprocessor_config.json": _json(image_processor(config.model.image_size, config.data.square)),
        "gaudi_config.json": _json(  # which optimum-habana reads
            {"use_fused_adam": True, "use_fused_clip_norm": True, "use_torch_autocast": True}
        ),
    }


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
