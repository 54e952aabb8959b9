"""The joint step: images and texts are encoded once, all pairs are fused in one batch, and each loss reads its part.

Shapes: B samples, M masked places per text, D width.
"""

import torch
from torch import Tensor, nn

from bridgetower_train.config import ModelConfig, ObjectiveConfig
from bridgetower_train.data.batch import IGNORE, Batch
from bridgetower_train.model.attention import AttentionFunction, sdpa
from bridgetower_train.model.bridgetower import BridgeTower
from bridgetower_train.model.heads import Heads
from bridgetower_train.tasks.gather import world_size
from bridgetower_train.tasks.pretraining.itc import (
    clamped_logit_scale,
    embed_cross,
    embed_image,
    embed_text,
    itc_logits,
    itc_loss,
)
from bridgetower_train.tasks.pretraining.itm import hard_negatives, itm_loss
from bridgetower_train.tasks.pretraining.mlm import mlm_loss
from bridgetower_train.tasks.pretraining.pairs import PairKinds, joint_pairs

Metrics = dict[str, Tensor]


def needed_heads(objective: ObjectiveConfig) -> Heads:
    """The heads that `objective` reads."""
    return Heads(
        mlm=objective.mlm > 0,
        itm=objective.itm > 0,
        itc_dim=objective.itc_dim if objective.itc > 0 else 0,
        itc_cross_modal=objective.itc_form != "ms",
    )


class JointTask(nn.Module):
    """The model with its losses: a batch in, one loss and its metrics out.

    Both are such that summing them (and the gradients) over the micro-batches of a step and averaging over the ranks, as
    DistributedDataParallel does, gives the mean over the global batch.
    """

    def __init__(self, model: ModelConfig, objective: ObjectiveConfig, attention: AttentionFunction = sdpa) -> None:
        super().__init__()
        self.objective = objective
        self.needs = PairKinds.of(objective)
        self.model = BridgeTower(model, needed_heads(objective), attention)
        if not self.needs.pooled:
            self.model.freeze_pooling()

    def counts(self, batch: Batch) -> Tensor:
        """float32 (3,): pairs, masked tokens and ITM pairs of this micro-batch, without a host sync.

        Their sum over the micro-batches and ranks of a step is what `forward` takes as `totals`.
        """
        ids = batch.image_id
        if self.objective.itm_negatives == "hard":
            mismatched = (ids[:, None] != ids).any(dim=1)
        else:
            mismatched = batch.itm_negative != torch.arange(len(ids), device=ids.device)
        pairs = torch.full_like(mismatched.sum(), len(ids))
        return torch.stack([pairs, (batch.mlm_labels != IGNORE).sum(), pairs + mismatched.sum()]).float()

    def forward(self, batch: Batch, totals: Tensor) -> tuple[Tensor, Metrics]:
        """(weighted loss, metrics as detached scalars on the device); for `totals` see `counts`.

        Metrics: `loss`, and of each loss that has a weight `loss_mlm`, `acc_mlm`, `loss_itm`, `acc_itm`, `loss_itc`,
        `recall_itc` (texts whose nearest image is right, among those of all ranks) and `logit_scale` (the factor itself).
        """
        objective, needs, model, B = self.objective, self.needs, self.model, len(batch.image_id)

        # Towers: the clean and the masked view of the texts are one batch.
        views = [ids for ids, read in ((batch.input_ids, needs.clean), (batch.masked_ids, needs.masked)) if read]
        image = model.encode_image(batch.pixel_values)
        text = model.encode_text(torch.cat(views), batch.text_mask.repeat(len(views), 1))
        embeddings = {}
        if objective.itc:
            embeddings["text"] = embed_text(model, text.cls[:B])
            embeddings["image"] = embed_image(model, image, objective.itc_form)

        # Fusion.
        negative = batch.itm_negative
        if objective.itm and objective.itm_negatives == "hard":
            similarity = itc_logits(embeddings["text"], embeddings["image"], model.logit_scale)
            negative = hard_negatives(similarity.detach(), batch.image_id)
        fused = model.fuse(image, text, joint_pairs(needs, negative, batch.mlm_positions))

        # Losses: sums over this micro-batch, divided by the step's totals.
        pairs, masked_tokens, itm_pairs = (totals.clamp(min=1) / world_size()).unbind()
        metrics: Metrics = {}
        loss = torch.zeros_like(totals[0])
        if objective.mlm:
            loss_mlm, right = mlm_loss(model.mlm_score(fused.text), batch.mlm_labels)
            metrics.update({"loss_mlm": loss_mlm / masked_tokens, "acc_mlm": right / masked_tokens})
            loss = loss + objective.mlm * metrics["loss_mlm"]
        if objective.itm:
            loss_itm, right = itm_loss(model.itm_score(fused.pooled), negative)
            metrics.update({"loss_itm": loss_itm / itm_pairs, "acc_itm": right / itm_pairs})
            loss = loss + objective.itm * metrics["loss_itm"]
        if objective.itc:
            if objective.itc_form != "ms":
                embeddings["cross"] = embed_cross(model, fused.pooled[:B])
            loss_itc, right = itc_loss(embeddings, model.logit_scale, batch.image_id, objective.itc_form)
            metrics.update({"loss_itc": loss_itc / pairs, "recall_itc": right / pairs})
            metrics["logit_scale"] = clamped_logit_scale(model.logit_scale) * B / pairs
            loss = loss + objective.itc * metrics["loss_itc"]
        return loss, {name: value.detach() for name, value in [("loss", loss), *metrics.items()]}
