"""Published weights: what each must hold, and whether our model computes the same from them."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bridgetower_train.config import ModelConfig, TrainConfig
from bridgetower_train.data.cache import read_url
from bridgetower_train.data.image import decode_square
from bridgetower_train.distributed import ALONE
from bridgetower_train.errors import ConfigError, UserError
from bridgetower_train.evaluation.base import corpus_of, open_model
from bridgetower_train.evaluation.retrieval import RETRIEVAL, RetrievalOptions
from bridgetower_train.model.bridgetower import BridgeTower, Pairs
from bridgetower_train.model.vision import CLIP_MEAN, CLIP_STD, normalize
from bridgetower_train.tasks import known_heads, task_class
from bridgetower_train.tasks.pretraining.itc import embed_cross, embed_image, embed_text, itc_loss
from bridgetower_train.weights import names
from bridgetower_train.weights.fit import fit
from bridgetower_train.weights.names import Tensors
from bridgetower_train.weights.read import read_tensors
from bridgetower_train.weights.saved import locate

_READERS: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "model": (names.whole_model, ""),
    "image tower": (names.image_tower, names.IMAGE_TOWER),
    "text tower": (names.text_tower, names.TEXT_TOWER),
}
_CLASSES = {
    "mlm_score": "BridgeTowerForMaskedLM",
    "itm_score": "BridgeTowerForImageAndTextRetrieval",
    "itc_text_head": "BridgeTowerForContrastiveLearning",
}
_FILES = (
    "config.json, tokenizer.json, preprocessor_config.json (if there is one) and model.safetensors or pytorch_model.bin"
)
_PHOTO = 10 << 20  # bytes, at most


@dataclass(frozen=True)
class Published:
    """Weights that others have published."""

    name: str
    """On the hub, or of a file."""
    kind: str
    """`model`, `image tower` or `text tower`."""
    model: ModelConfig
    heads: tuple[str, ...] = ()
    """Heads that it has at least."""
    address: str = ""
    """Where it is, if not on the hub under its name."""
    example: bool = False
    """Whether the example of the card is its own."""

    def fetch(self, root: Path) -> str:
        """What to fetch, and where to put it."""
        address = self.address or f"https://huggingface.co/{self.name}"
        return f"put {self.name if self.address else _FILES} from {address} {'at' if self.address else 'into'} {root / self.name}"


def find(published: Published, root: Path) -> tuple[str | None, str]:
    """(the folder or file with the weights, "") or (None, why there is none); fetched from the hub if `root` has none."""
    local = root / published.name
    try:
        if local.exists() or published.address:
            return str(locate(str(local), published.name)), ""
        return str(locate(published.name, published.name)), ""
    except ConfigError as error:
        return None, str(error)


def tensors(published: Published, source: str) -> tuple[int, float, list[str], str]:
    """(tensors, millions of parameters, heads, a note): all names and shapes are the model's. ConfigError lists what is not."""
    given = _given(published, source)
    wanted = _wanted(_run(published), given, _READERS[published.kind][1])
    fitted, note = fit(given, wanted, published.name)
    heads = sorted({name.split(".")[0] for name in given} & known_heads())
    if lacking := [head for head in published.heads if head not in heads]:
        raise ConfigError(f"{published.name}: lacks {', '.join(lacking)}")
    return len(fitted), sum(t.numel() for t in given.values()) / 1e6, heads, note


def _run(published: Published) -> TrainConfig:
    return TrainConfig(model=published.model)


def _given(published: Published, source: str) -> Tensors:
    return _READERS[published.kind][0](read_tensors(Path(source), published.name))


def _wanted(run: TrainConfig, given: Tensors, prefix: str) -> Tensors:
    """Names and shapes of our model, as far as it is below `prefix`, with the heads that are given."""
    with torch.device("meta"):
        state = task_class(run)(run).model.state_dict()
    absent = known_heads() - {name.split(".")[0] for name in given}
    return {name: t for name, t in state.items() if name.startswith(prefix) and name.split(".")[0] not in absent}


def _model(run: TrainConfig, given: Tensors, prefix: str, named: str) -> BridgeTower:
    """Our model with these weights, in float64, where rounding hides nothing; what is not given is random."""
    model = task_class(run)(run).model
    fitted, _ = fit(given, _wanted(run, given, prefix), named)
    model.load_state_dict(fitted, strict=False)
    return model.double().eval()


def outputs(published: Published, source: str) -> dict[str, float]:
    """transformers' class -> the largest difference of its outputs from ours, in float64, on random pairs."""
    import transformers

    given, prefix = _given(published, source), _READERS[published.kind][1]
    run = _run(published)
    if published.kind == "image tower":  # at its own resolution
        grid = round((len(given[names.POSITIONS]) - 1) ** 0.5)
        run = replace(run, model=replace(run.model, image_size=grid * run.model.patch_size))
    model = _model(run, given, prefix, published.name)
    pixels, ids, mask = _random_pairs(run.model)
    with torch.no_grad():
        if published.kind == "image tower":
            theirs = _load(transformers.CLIPVisionModel, source)
            expected = theirs(normalize(pixels, torch.float64), output_hidden_states=True).hidden_states
            found = model.bridgetower.vision_model.visual(pixels, run.model.vision_layers)
            return {"CLIPVisionModel": _furthest(found, expected[1:])}
        if published.kind == "text tower":
            theirs = _load(transformers.RobertaModel, source)
            expected = theirs(ids, mask.long(), output_hidden_states=True).hidden_states
            found = model.bridgetower.text_model(ids, mask, run.model.text_layers)
            return {"RobertaModel": _furthest([x[mask] for x in found], [x[mask] for x in expected[1:]])}
        heads = [head for head in _CLASSES if any(name.startswith(f"{head}.") for name in given)]
        ours = answer(model, pixels, ids, mask, heads)
        off = {}
        for name in ["BridgeTowerModel", *(_CLASSES[head] for head in heads)]:
            theirs = _load(getattr(transformers, name), source)
            result = theirs(input_ids=ids, attention_mask=mask.long(), pixel_values=normalize(pixels, torch.float64))
            keys = {
                "BridgeTowerModel": {"pooled": "pooler_output"},
                "BridgeTowerForMaskedLM": {"mlm": "logits"},
                "BridgeTowerForImageAndTextRetrieval": {"itm": "logits"},
                "BridgeTowerForContrastiveLearning": {k: f"{k}_embeds" for k in ("text", "image", "cross")},
            }[name]
            off[name] = max(_furthest([ours[mine]], [result[other]]) for mine, other in keys.items())
        return off


def _load(kind: type, source: str) -> torch.nn.Module:
    model: torch.nn.Module = kind.from_pretrained(source, attn_implementation="eager").double().eval()  # type: ignore[attr-defined]
    return model


def _furthest(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))


def _random_pairs(model: ModelConfig) -> tuple[Tensor, Tensor, Tensor]:
    """(images, ids, mask) of two pairs; the second text is shorter."""
    random = torch.Generator().manual_seed(0)
    assert model.vocab_size is not None
    S, L = model.image_size, min(12, model.max_text_len)
    pixels = torch.randint(0, 256, (2, 3, S, S), generator=random).byte()
    ids = torch.randint(4, model.vocab_size, (2, L), generator=random)
    ids[:, 0] = 0
    mask = torch.arange(L) < torch.tensor([[L], [L - 4]])
    return pixels, torch.where(mask, ids, 1), mask


def answer(model: BridgeTower, pixels: Tensor, ids: Tensor, mask: Tensor, heads: Sequence[str]) -> dict[str, Tensor]:
    """`pooled`, and by the heads `mlm`, `itm`, and the embeddings `text`, `image` and `cross`, of aligned pairs."""
    image, text = model.encode_image(pixels), model.encode_text(ids, mask)
    rows = torch.arange(len(ids))
    pooled = model.fuse(image, text, Pairs(rows, rows, len(ids))).pooled
    found = {"pooled": pooled}
    if "mlm_score" in heads:
        places = torch.arange(ids.shape[1]).expand(len(ids), -1)
        found["mlm"] = model.head("mlm_score")(model.fuse(image, text, Pairs(rows, rows, 0, places)).text)
    if "itm_score" in heads:
        found["itm"] = model.head("itm_score")(pooled)
    if "itc_text_head" in heads:
        found["text"] = embed_text(model, text.cls)
        found["image"] = embed_image(model, image, "hf")
        found["cross"] = embed_cross(model, pooled)
    return found


@dataclass(frozen=True)
class Example:
    """The example of a model card: two images with their texts, and the losses in order and with the texts swapped."""

    processor: str
    """Whose pixels it takes, by name on the hub."""
    images: tuple[str, ...]
    texts: tuple[str, ...]
    losses: tuple[float, float]


def example(published: Published, source: str, shown: Example, root: Path) -> dict[str, tuple[float, float]]:
    """`card` and `ours` -> (loss in order, loss swapped), by the pixels of the card's processor and by ours."""
    import transformers
    from PIL import Image

    photos = [_photo(url, root) for url in shown.images]
    local = root / shown.processor
    processor = transformers.BridgeTowerProcessor.from_pretrained(local if local.exists() else shown.processor)
    images = [Image.open(io.BytesIO(photo)).convert("RGB") for photo in photos]
    encoding = processor(images, list(shown.texts), padding=True, return_tensors="pt")
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    theirs = ((encoding["pixel_values"] * deviation + mean) * 255).round().clamp(0, 255).byte()
    size = published.model.image_size
    if tuple(theirs.shape[-2:]) != (size, size):
        raise UserError(
            f"the processor gives images of {tuple(theirs.shape[-2:])}, the model takes {size}: this version of transformers "
            "reads its file otherwise than the card's; use transformers<5"
        )
    mine = np.empty((len(photos), size, size, 3), np.uint8)
    for photo, out in zip(photos, mine, strict=True):
        decode_square(photo, size, "crop", out)
    model = _model(_run(published), _given(published, source), "", published.name)
    ids, mask = encoding["input_ids"], encoding["attention_mask"].bool()
    loss = partial(_contrast, model)
    return {
        name: (loss(pixels, ids, mask), loss(pixels, ids.flip(0), mask.flip(0)))
        for name, pixels in (("card", theirs), ("ours", torch.from_numpy(mine).permute(0, 3, 1, 2)))
    }


def _contrast(model: BridgeTower, pixels: Tensor, ids: Tensor, mask: Tensor) -> float:
    with torch.no_grad():
        found = answer(model, pixels, ids, mask, ["itc_text_head"])
        rows = torch.arange(len(ids))
        embeddings = {name: found[name] for name in ("text", "image", "cross")}
        loss, _ = itc_loss(embeddings, model.head("logit_scale").detach(), rows, rows, "hf")
    return float(loss) / len(ids)


def _photo(url: str, root: Path) -> bytes:
    """An image of the example, from `root` if it is there."""
    local = root / url.rpartition("/")[2]
    try:
        return local.read_bytes() if local.is_file() else read_url(url, _PHOTO)
    except UserError as error:
        raise UserError(f"{error}; put {url} at {local}") from None


def retrieval(source: str, corpus: str, device: str) -> dict[str, dict[str, float]]:
    """Method -> figures of `bridgetower eval retrieval fold=1000` with all captions."""
    folder = Path(corpus).absolute()
    options = RetrievalOptions(
        run_dir=source, root=str(folder.parent), corpus=folder.name, captions=None, fold=1000, device=device
    )
    model, saved = open_model(source, device=device)
    return dict(RETRIEVAL.run(model, corpus_of(options, saved.config), options, ALONE).figures)
