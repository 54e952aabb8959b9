"""Captions to the labels of pretraining: a masked view and a mismatched image for each text."""

import torch
from torch import Tensor

from bridgetower_train.config import TrainConfig
from bridgetower_train.data.reader import Samples, View
from bridgetower_train.data.shards import Record
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.tasks.pretraining.masking import mask_tokens, max_masked_tokens
from bridgetower_train.tasks.pretraining.negatives import itm_negatives, text_ids


class PretrainingReader:
    """A sample is an image with one of its captions.

    Labels: `masked_ids` int64 (B, L), `mlm_positions` and `mlm_labels` int64 (B, M) (see `mask_tokens`), and `itm_negative`
    int64 (B,) (see `itm_negatives`); `text_id` int64 (B,), equal for equal texts; `itm_hard` bool (B,): whether hard negatives
    have begun (`objective.hard_after`).
    """

    images = 1

    def __init__(self, config: TrainConfig, tokenizer: CaptionTokenizer) -> None:
        self.tokenizer, self.seed, self.samples_per_lane = tokenizer, config.seed, config.samples_per_lane
        self.probability = config.objective.mlm_probability
        self.masked_tokens = max_masked_tokens(self.probability, config.model.max_text_len)
        self.hard_after = config.objective.hard_after

    def count(self, record: Record) -> int:
        return len(record.captions)

    def view(self, record: Record, number: int) -> View:
        return View((record.image,), record.captions[number])

    def labels(self, samples: Samples) -> dict[str, Tensor]:
        masked, positions, labels = mask_tokens(
            self.tokenizer, samples.ids, samples.sample_index, self.seed, self.probability, self.masked_tokens
        )
        text_id = text_ids(samples.ids.numpy(), samples.mask.numpy())
        negative = itm_negatives(samples.image_id, text_id, samples.sample_index, self.samples_per_lane, self.seed)
        length = samples.length
        begin = length.in_steps("objective.hard_after", self.hard_after) * length.global_batch if length else 0
        return {
            "masked_ids": masked,
            "mlm_positions": positions,
            "mlm_labels": labels,
            "itm_negative": torch.from_numpy(negative),
            "text_id": torch.from_numpy(text_id),
            "itm_hard": torch.from_numpy(samples.sample_index >= begin),
        }
