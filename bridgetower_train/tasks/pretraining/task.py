"""Pretraining: each image and text is encoded once, all pairs are fused in one batch, and each loss reads its part.

Shapes: B samples, M masked tokens per text, D width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bridgetower_train.config import ModelConfig, ObjectiveConfig, TrainConfig
from bridgetower_train.data.batch import Batch
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.devices import Device
from bridgetower_train.model.attention import AttentionFunction, sdpa
from bridgetower_train.model.bridgetower import Fused, ImageStates, Pairs, TextStates
from bridgetower_train.model.flops import Work
from bridgetower_train.model.heads import Head, LinearHead
from bridgetower_train.tasks.base import Embedded, Exported, Metric, Metrics, Said, Shown, Task
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
        """`recall_itc`: texts whose nearest image among those compared is right; `logit_scale`: the factor of the logits."""
        objective, full = config.objective, config.validation.retrieval == "full"
        among = "" if full else f" among {GALLERY}"
        of_loss = {
            "mlm": [Metric("loss_mlm", "Masked language modelling", "min"), Metric("acc_mlm", "masked tokens", "max")],
            "itm": [Metric("loss_itm", "Image-text matching", "min"), Metric("acc_itm", "matching", "max")],
            "itc": [
                Metric("loss_itc", "Image-text contrast", "min"),
                Metric("recall_itc", "contrast R@1 in the batch", "max"),
                *(
                    Metric(f"{way}_r{k}", title, "max", f"Retrieval R@{k}{among}")
                    for k in ((1, 5, 10) if full else (1,))
                    for way, title in (("i2t", "image to text"), ("t2i", "text to image"))
                ),
                *([Metric("rsum", "RSUM", "max", "Retrieval RSUM", 600)] if full else []),
                *([Metric("zero_shot", "zero-shot class", "max")] if config.validation.zero_shot else []),
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
    def reader(cls, config: TrainConfig, tokenizer: CaptionTokenizer, names: Sequence[str] = ()) -> PretrainingReader:
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
    def show(
        cls, config: TrainConfig, batch: Batch, row: int, tokenizer: CaptionTokenizer, names: Sequence[str] = ()
    ) -> Shown:
        return show(batch, row, tokenizer, config.objective.itm_negatives == "hard")

    @classmethod
    def released(cls, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """`logit_scale` becomes the clamped value that the loss used."""
        if "logit_scale" in weights:
            return {**weights, "logit_scale": torch.clamp(weights["logit_scale"], *LOGIT_SCALE_RANGE)}
        return weights

    @classmethod
    def compared(cls, config: TrainConfig, micro_batch: int, global_batch: int) -> int:
        """By `objective.contrast`."""
        objective = config.objective
        named = {"global": global_batch, "micro_batch": micro_batch}
        return (named.get(objective.contrast) or int(objective.contrast)) if objective.itc else 0

    @classmethod
    def embedding_work(cls, config: TrainConfig) -> Work:
        work = cls.work(config)
        heads = tuple(head for head in work.heads if head.name.startswith("itc_"))
        if config.objective.itc_form == "ms":
            return work._replace(pooled=0, read=0, tokens=0, heads=heads)
        return work._replace(tokens=0, heads=heads)

    @classmethod
    def decided_by_micro_batch(cls, config: TrainConfig) -> str:
        objective = config.objective
        hard = ["hard negatives"] * (objective.itm > 0 and objective.itm_negatives == "hard")
        return " and ".join(hard + ["the contrast"] * (objective.itc > 0 and objective.contrast == "micro_batch"))

    def bounds(self) -> dict[str, tuple[float, float]]:
        """The temperature's."""
        return {"logit_scale": LOGIT_SCALE_RANGE} if self.objective.itc else {}

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

    def forward(self, batch: Batch, totals: Tensor) -> tuple[Tensor, Metrics, Embedded]:
        objective, model = self.objective, self.model
        encoded = self._encode(batch)
        fused = model.fuse(encoded.image, encoded.text, encoded.pairs)

        # Losses: sums over this micro-batch, divided by the step's totals.
        _, masked_tokens, itm_pairs = _per_rank(totals)
        metrics: Metrics = {}
        loss = torch.zeros_like(totals[0])
        if objective.mlm:
            loss_mlm, right = mlm_loss(model.head("mlm_score")(fused.text), batch.labels["mlm_labels"])
            metrics.update({"loss_mlm": loss_mlm / masked_tokens, "acc_mlm": right / masked_tokens})
            loss = loss + objective.mlm * metrics["loss_mlm"]
        if objective.itm:
            loss_itm, right = itm_loss(model.head("itm_score")(fused.pooled), encoded.negatives)
            metrics.update({"loss_itm": loss_itm / itm_pairs, "acc_itm": right / itm_pairs})
            loss = loss + objective.itm * metrics["loss_itm"]
        return loss, {name: value.detach() for name, value in metrics.items()}, self._embedded(batch, encoded, fused)

    def across(self, embedded: Embedded, totals: Tensor, among: int) -> tuple[Tensor, Metrics]:
        """The contrast."""
        objective = self.objective
        if not objective.itc:
            return super().across(embedded, totals, among)
        samples, _, _ = _per_rank(totals)
        logit_scale, ids_B2 = embedded["logit_scale"][0], embedded["ids"]
        loss, right = itc_loss(
            embedded, logit_scale, ids_B2[:, 0], ids_B2[:, 1], objective.itc_form, objective.same_image, among
        )
        loss_itc = loss / samples
        scale = clamped_logit_scale(logit_scale) * len(ids_B2) / samples
        metrics = {"loss_itc": loss_itc, "recall_itc": right / samples, "logit_scale": scale}
        return objective.itc * loss_itc, {name: value.detach() for name, value in metrics.items()}

    def embed(self, batch: Batch) -> tuple[Embedded, dict[str, Tensor]]:
        """Of the fusion encoder without the states for MLM, which are computed last; with form `ms` of the towers alone."""
        encoded, fused = self._encode(batch), None
        if self.objective.itc_form != "ms":
            fused = self.model.fuse(encoded.image, encoded.text, replace(encoded.pairs, positions=None))
        drawn = {} if encoded.similarity is None else {"similarity": encoded.similarity}
        return self._embedded(batch, encoded, fused), drawn

    def say(self, pixels: Tensor, text: str, tokenizer: CaptionTokenizer, device: Device, top: int) -> Said:
        from bridgetower_train.tasks.pretraining.predictor import Predictor  # which needs this module

        return Predictor(self, tokenizer, device).say(pixels, text, top)

    def _encode(self, batch: Batch) -> "_Encoded":
        """The towers: the clean and the masked views of the texts are one batch."""
        kinds, model, B = self.pairs, self.model, len(batch.image_id)
        views = [batch.input_ids] * kinds.clean + [batch.labels["masked_ids"]] * kinds.masked
        image = self.encode_images(batch.pixel_values, batch.patches)
        text = model.encode_text(torch.cat(views), batch.text_mask.repeat(len(views), 1))
        embeddings, similarity = {}, None
        if self.objective.itc:
            embeddings["text"] = embed_text(model, text.cls[:B])
            embeddings["image"] = embed_image(model, image, self.objective.itc_form)
        negatives = [batch.labels["itm_negative"]][: kinds.mismatched]
        if kinds.mismatched == 2:
            similarity = batch.labels.get("similarity")
            if similarity is None:
                similarity = itc_logits(embeddings["text"], embeddings["image"], model.head("logit_scale")).detach()
            other, hard = others(batch.image_id, batch.labels["text_id"]), batch.labels["itm_hard"]
            negatives = [hard_negatives(rows, other, hard) for rows in (similarity, similarity.T)]
        pairs = joint_pairs(kinds, negatives, batch.labels["mlm_positions"])
        return _Encoded(image, text, embeddings, similarity, negatives, pairs)

    def _embedded(self, batch: Batch, encoded: "_Encoded", fused: Fused | None) -> Embedded:
        """What the contrast reads."""
        if not self.objective.itc:
            return {}
        B = len(batch.image_id)
        embedded = {
            **encoded.embeddings,
            "logit_scale": self.model.head("logit_scale").expand(B),
            "ids": torch.stack([batch.image_id, batch.labels["text_id"]], dim=1),
        }
        if self.objective.itc_form != "ms":
            assert fused is not None, "these forms read fused pairs"
            embedded["cross"] = embed_cross(self.model, fused.pooled[:B])
        return embedded


@dataclass(frozen=True)
class _Encoded:
    """The towers' results for a micro-batch, and the pairs to fuse."""

    image: ImageStates
    text: TextStates
    embeddings: dict[str, Tensor]
    """`text` and `image`, for the contrast."""
    similarity: Tensor | None
    """(B, B): what hard negatives are drawn by, without gradient."""
    negatives: list[Tensor]
    pairs: Pairs


def _per_rank(totals: Tensor) -> tuple[Tensor, ...]:
    """The denominators: `totals` of a step, none 0, divided by the number of ranks."""
    return (totals.clamp(min=1) / world_size()).unbind()


_EMBEDDINGS = (("text", 1), ("image", 1), ("cross_modal", 2))
"""Contrastive heads, each with the number of states of the model's width that it reads."""

GALLERY = 128
"""Candidates of a query in a quick validation and in the overview of `eval`."""

_MS_NOTE = (
    "The contrastive heads (`itc_text_head`, `itc_image_head`, {} wide) read the last states of the two towers, as in "
    "Microsoft's code. transformers has no class for them; they are in the file for further training."
)


def _linear(states: int, outputs: int, config: ModelConfig) -> LinearHead:
    """A head from `states` concatenated states of the model's width to `outputs`."""
    return LinearHead(states * config.width, outputs)


def _logit_scale(config: ModelConfig) -> nn.Parameter:
    return nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))
