"""Results of a search as their page shows them.

Shapes: S image edge, G patches along it.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from bridgetower_train.data.image import decode
from bridgetower_train.data.shards import BadRecordError, Record
from bridgetower_train.evaluation.attention import attention_over_images, words
from bridgetower_train.pages.images import shrunk
from bridgetower_train.pages.search.page import Hit, SearchView
from bridgetower_train.use.model import Model
from bridgetower_train.use.search import Query, Result, Search

_EDGE = 320


def view(search: Search, query: Query, results: Sequence[Result], attention: int = 8) -> SearchView:
    """What the page shows: of the first `attention` results also where the words look, which takes a pass of the model."""
    objective = search.model.config.objective
    fuses = objective.mlm > 0 or objective.itm > 0 or objective.itc_form != "ms"  # otherwise attention is not trained
    return SearchView(
        text=query.text,
        name=query.name,
        image=None if query.pixels is None else query.pixels.numpy(),
        facts=facts(search),
        hits=[_hit(search, query, result, fuses and place < attention) for place, result in enumerate(results)],
        calibration=search.model.calibration if any(result.match is not None for result in results) else "",
        of_images=search.index.about.kind == "images",
    )


def facts(search: Search) -> dict[str, str]:
    """What is searched, in words."""
    about = search.index.about
    left_out = f"; {about.left_out:,} left out" if about.left_out else ""
    return {
        "index": f"{search.index.path.name}: {len(search.index):,} {about.kind}{left_out}",
        "model": about.named,
    }


def attention_to(model: Model, pixels_3SS: Tensor, text: str) -> npt.NDArray[np.float32]:
    """float32 (G, G): how much the words of a text look at each patch of an image, the mean over them."""
    tokenizer = model.opened.tokenizer
    (ids,), (mask,) = tokenizer.encode([text], model.config.model.max_text_len)
    (weights_LGG,) = attention_over_images(model.opened, pixels_3SS[None], ids, mask)
    places = [place for _, group in words(tokenizer, ids, mask) for place in group]
    found: npt.NDArray[np.float32] = weights_LGG[places or slice(None)].mean(0).numpy()
    return found


def _hit(search: Search, query: Query, result: Result, looks: bool) -> Hit:
    model = search.model
    if search.index.about.kind == "texts":
        pixels = query.pixels if looks else None
        drawn = None if pixels is None else (pixels.numpy(), attention_to(model, pixels, result.key))
        return Hit(result.key, result.similarity, result.match, None, "", drawn)
    try:
        found = search.image(result)
        image = shrunk(decode(found.image if isinstance(found, Record) else found, _EDGE), _EDGE)
    except (BadRecordError, OSError) as error:
        return Hit(result.key, result.similarity, result.match, None, str(error), None)
    seen = search.seen(result) if query.text and looks else ""
    drawn = None if isinstance(seen, str) else (seen.numpy(), attention_to(model, seen, query.text))
    return Hit(result.key, result.similarity, result.match, image, "", drawn)
