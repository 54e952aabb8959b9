"""Pretraining: each image and text is encoded once, all pairs are fused in one batch, and each loss reads its part.

Shapes: B samples, M masked tokens per text, D width.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bridgetower_train.config import ModelConfig, ObjectiveConfig, TrainConfig
from bridgetower_train.data.batch import Batch
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.model.attention import AttentionFunction, sdpa
from bridgetower_train.model.flops import Work
from bridgetower_train.model.heads import Head, LinearHead
from bridgetower_train.tasks.base import Exported, Metric, Metrics, Shown, Task
from bridgetower_train.tasks.gather import world_size
from bridgetower_train.tasks.pretraining.itc import (
    INITIAL_LOGIT_SCALE,
    LOGIT_SCALE_RANGE,
    TERMS,
    clamped_logit_scale,
    embed_cross,
    embed_image,
    embed_text,
    itc_logits,
    itc_loss,
)
from bridgetower_train.tasks.pretraining.itm import hard_negatives, itm_loss, others
from bridgetower_train.tasks.pretraining.masking import IGNORE, max_masked_tokens
from bridgetower_train.tasks.pretraining.mlm import MLMHead, mlm_loss
from bridgetower_train.tasks.pretraining.pairs import PairKinds, joint_pairs
from bridgetower_train.tasks.pretraining.reader import PretrainingReader
from bridgetower_train.tasks.pretraining.show import show


class Pretraining(Task):
    """Weighted losses of masked language modelling, image-text matching and image-text contrast."""

    title: ClassVar[str] = "pretraining"

    def __init__(self, config: TrainConfig, attention: AttentionFunction = sdpa) -> None:
        self.objective = config.objective
        self.pairs = PairKinds.of(config.objective)
        super().__init__(config, attention)

    @classmethod
    def heads(cls, config: TrainConfig) -> tuple[Head, ...]:
        objective = config.objective
        kinds = PairKinds.of(objective)
        heads = []
        if objective.mlm:
            masked = max_masked_tokens(objective.mlm_probability, config.model.max_text_len)
            heads.append(Head("mlm_score", MLMHead, masked, "BridgeTowerForMaskedLM"))
        if objective.itm:
            heads.append(Head("itm_score", partial(_linear, 2, 2), kinds.pooled, "BridgeTowerForImageAndTextRetrieval"))
        if objective.itc:
            # Form `ms` reads other states than transformers' class, whose results would be meaningless.
            exported = None if objective.itc_form == "ms" else "BridgeTowerForContrastiveLearning"
            for name, states in _EMBEDDINGS[: 2 if objective.itc_form == "ms" else 3]:
                build = partial(_linear, states, objective.itc_dim)
                heads.append(Head(f"itc_{name}_head", build, 1, exported, "objective.itc_dim"))
            heads.append(Head("logit_scale", _logit_scale, 0, exported))
        return tuple(heads)

    @classmethod
    def metrics(cls, config: TrainConfig) -> tuple[Metric, ...]:
        """`recall_itc`: texts whose nearest image of all ranks is right; `logit_scale`: the factor of the logits."""
        objective, full = config.objective, config.validation.retrieval == "full"
        of_loss = {
            "mlm": [Metric("loss_mlm", "Masked language modelling", "min"), Metric("acc_mlm", "masked token", "max")],
            "itm": [Metric("loss_itm", "Image-text matching", "min"), Metric("acc_itm", "matching", "max")],
            "itc": [
                Metric("loss_itc", "Image-text contrast", "min"),
                Metric("recall_itc", "contrast R@1", "max"),
                *(
                    Metric(f"{way}_r{k}", title, "max", f"Retrieval R@{k}")
                    for k in ((1, 5, 10) if full else (1,))
                    for way, title in (("i2t", "image to text"), ("t2i", "text to image"))
                ),
                *([Metric("rsum", "RSUM", "max", "Retrieval RSUM", 600)] if full else []),
                Metric("logit_scale", "Logit scale", ""),
            ],
        }
        return tuple(metric for name, metrics in of_loss.items() if getattr(objective, name) for metric in metrics)

    @classmethod
    def work(cls, config: TrainConfig) -> Work:
        kinds = PairKinds.of(config.objective)
        masked = max_masked_tokens(config.objective.mlm_probability, config.model.max_text_len) if kinds.masked else 0
        return Work(1, kinds.clean + kinds.masked, kinds.pooled, int(kinds.masked), masked, cls.heads(config))

    @classmethod
    def reader(cls, config: TrainConfig, tokenizer: CaptionTokenizer) -> PretrainingReader:
        return PretrainingReader(config, tokenizer)

    @classmethod
    def blank_labels(cls, config: TrainConfig, size: int, length: int) -> dict[str, Tensor]:
        masked = max_masked_tokens(config.objective.mlm_probability, config.model.max_text_len)
        return {
            "masked_ids": torch.zeros(size, length, dtype=torch.int64),
            "mlm_positions": torch.zeros(size, masked, dtype=torch.int64),
            "mlm_labels": torch.zeros(size, masked, dtype=torch.int64),
            "itm_negative": torch.arange(size).roll(1),
            "text_id": torch.arange(size),
            "itm_hard": torch.ones(size, dtype=torch.bool),
        }

    @classmethod
    def gathered(cls, config: TrainConfig) -> int:
        """The keys of the contrast."""
        objective = config.objective
        return len({key for _, key in TERMS[objective.itc_form]}) * objective.itc_dim if objective.itc else 0

    @classmethod
    def contrast(cls, config: TrainConfig, samples: int) -> Callable[[], Tensor]:
        objective = config.objective
        names = ("text", "image", "cross")
        embeddings = {name: torch.ones(samples, objective.itc_dim, requires_grad=True) for name in names}
        scale, ids = torch.ones((), requires_grad=True), torch.arange(samples)
        return lambda: itc_loss(embeddings, scale, ids, ids, objective.itc_form)[0]

    @classmethod
    def recipe(cls, config: TrainConfig) -> list[tuple[str, str]]:
        objective = config.objective
        weights = {"MLM": objective.mlm, "ITM": objective.itm, "ITC": objective.itc}
        rows = [("losses and weights", ", ".join(f"{name} {weight:g}" for name, weight in weights.items() if weight))]
        if objective.itm:
            hard = objective.itm_negatives == "hard"
            rows.append(("ITM negatives", "hard, images and texts" if hard else "random images"))
        if objective.itc:
            same = "right" if objective.same_image == "positive" else "not compared"
            form = f"form {objective.itc_form}, {objective.itc_dim} wide, captions of one image {same}"
            rows.append(("ITC", form))
        if objective.mlm:
            rows.append(("masked tokens", f"{objective.mlm_probability:.0%}"))
        return rows

    @classmethod
    def exported(cls, config: TrainConfig) -> Exported:
        objective = config.objective
        settings = {"itc_form": objective.itc_form, "mlm_probability": objective.mlm_probability}
        # With `contrastive_hidden_size` the class for contrast would load heads that are not there, or read other states.
        if not objective.itc or objective.itc_form == "ms":
            return Exported({}, {}, [_MS_NOTE.format(objective.itc_dim)] if objective.itc else [], settings)
        description = {"contrastive_hidden_size": objective.itc_dim, "logit_scale_init_value": INITIAL_LOGIT_SCALE}
        return Exported(description, {}, [], settings)

    @classmethod
    def from_export(cls, config: TrainConfig, settings: dict[str, Any], weights: dict[str, Tensor]) -> TrainConfig:
        """The losses of the heads that are there, each with weight 1."""
        there = {name.split(".")[0] for name in weights}
        if not there & {"mlm_score", "itm_score", "itc_text_head"}:
            raise ValueError("it has none of pretraining's heads")
        form = "hf" if "itc_cross_modal_head" in there else "ms"
        objective = ObjectiveConfig(
            mlm=float("mlm_score" in there),
            itm=float("itm_score" in there),
            itc=float("itc_text_head" in there),
            itc_form=str(settings.get("itc_form", form)),
            itc_dim=len(weights["itc_text_head.fc.weight"]) if "itc_text_head" in there else ObjectiveConfig.itc_dim,
            mlm_probability=float(settings.get("mlm_probability", ObjectiveConfig.mlm_probability)),
        )
        return replace(config, objective=objective)

    @classmethod
    def show(cls, config: TrainConfig, batch: Batch, row: int, tokenizer: CaptionTokenizer) -> Shown:
        return show(batch, row, tokenizer, config.objective.itm_negatives == "hard")

    @classmethod
    def released(cls, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """`logit_scale` becomes the clamped value that the loss used."""
        if "logit_scale" in weights:
            return {**weights, "logit_scale": torch.clamp(weights["logit_scale"], *LOGIT_SCALE_RANGE)}
        return weights

    def unread(self) -> Iterator[nn.Parameter]:
        """If no pair is pooled, those of the modules that only pooled pairs use."""
        trunk = self.model.bridgetower
        unused = (trunk.cross_modal_image_layers[-1], trunk.cross_modal_text_pooler, trunk.cross_modal_image_pooler)
        return iter(()) if self.pairs.pooled else nn.ModuleList(unused).parameters()

    def counts(self, batch: Batch) -> Tensor:
        """float32 (3,): samples, masked tokens and ITM pairs."""
        ids = batch.image_id
        if self.objective.itm_negatives == "hard":
            mismatched = 2 * others(ids, batch.labels["text_id"]).any(dim=1).sum()
        else:
            mismatched = (batch.labels["itm_negative"] != torch.arange(len(ids), device=ids.device)).sum()
        samples = torch.full_like(mismatched, len(ids))
        return torch.stack([samples, (batch.labels["mlm_labels"] != IGNORE).sum(), samples + mismatched]).float()

    def forward(self, batch: Batch, totals: Tensor) -> tuple[Tensor, Metrics]:
        objective, kinds, model, B = self.objective, self.pairs, self.model, len(batch.image_id)

        # Towers: the clean and the masked views of the texts are one batch.
        views = [batch.input_ids] * kinds.clean + [batch.labels["masked_ids"]] * kinds.masked
        image = model.encode_image(batch.pixel_values)
        text = model.encode_text(torch.cat(views), batch.text_mask.repeat(len(views), 1))
        embeddings = {}
        if objective.itc:
            embeddings["text"] = embed_text(model, text.cls[:B])
            embeddings["image"] = embed_image(model, image, objective.itc_form)

        # Fusion.
        text_id = batch.labels["text_id"]
        negatives = [batch.labels["itm_negative"]][: kinds.mismatched]
        if kinds.mismatched == 2:
            similarity = itc_logits(embeddings["text"], embeddings["image"], model.head("logit_scale")).detach()
            other, hard = others(batch.image_id, text_id), batch.labels["itm_hard"]
            negatives = [hard_negatives(rows, other, hard) for rows in (similarity, similarity.T)]
        fused = model.fuse(image, text, joint_pairs(kinds, negatives, batch.labels["mlm_positions"]))

        # Losses: sums over this micro-batch, divided by the step's totals.
        samples, masked_tokens, itm_pairs = (totals.clamp(min=1) / world_size()).unbind()
        metrics: Metrics = {}
        loss = torch.zeros_like(totals[0])
        if objective.mlm:
            loss_mlm, right = mlm_loss(model.head("mlm_score")(fused.text), batch.labels["mlm_labels"])
            metrics.update({"loss_mlm": loss_mlm / masked_tokens, "acc_mlm": right / masked_tokens})
            loss = loss + objective.mlm * metrics["loss_mlm"]
        if objective.itm:
            loss_itm, right = itm_loss(model.head("itm_score")(fused.pooled), negatives)
            metrics.update({"loss_itm": loss_itm / itm_pairs, "acc_itm": right / itm_pairs})
            loss = loss + objective.itm * metrics["loss_itm"]
        if objective.itc:
            if objective.itc_form != "ms":
                embeddings["cross"] = embed_cross(model, fused.pooled[:B])
            loss_itc, right = itc_loss(
                embeddings, model.head("logit_scale"), batch.image_id, text_id, objective.itc_form, objective.same_image
            )
            metrics.update({"loss_itc": loss_itc / samples, "recall_itc": right / samples})
            metrics["logit_scale"] = clamped_logit_scale(model.head("logit_scale")) * B / samples
            loss = loss + objective.itc * metrics["loss_itc"]
        return loss, {name: value.detach() for name, value in [("loss", loss), *metrics.items()]}


_EMBEDDINGS = (("text", 1), ("image", 1), ("cross_modal", 2))
"""Contrastive heads, each with the number of states of the model's width that it reads."""

_MS_NOTE = (
    "The contrastive heads (`itc_text_head`, `itc_image_head`, {} wide) read the last states of the two towers, as in "
    "Microsoft's code. transformers has no class for them; they are in the file for further training."
)


def _linear(states: int, outputs: int, config: ModelConfig) -> LinearHead:
    """A head from `states` concatenated states of the model's width to `outputs`."""
    return LinearHead(states * config.width, outputs)


def _logit_scale(config: ModelConfig) -> nn.Parameter:
    return nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))
