"""`bridgetower embed run_dir=... images=FOLDER out=FILE.parquet`: embeddings of images or texts, for `bridgetower search`."""

from dataclasses import dataclass

from bridgetower_train.config import at_least, one_of
from bridgetower_train.data.roots import RootOptions
from bridgetower_train.display import listed, print_line
from bridgetower_train.distributed import init_ranks, shut_down
from bridgetower_train.errors import ConfigError
from bridgetower_train.evaluation.base import ModelOptions, named_corpus
from bridgetower_train.use.embed import embed
from bridgetower_train.use.index import DTYPES, check_path
from bridgetower_train.use.model import Model, load
from bridgetower_train.use.sources import Source, of_corpus, of_folder, of_texts


@dataclass(frozen=True)
class EmbedConfig(RootOptions, ModelOptions):
    """`bridgetower embed`, also under torchrun."""

    images: str | None = None
    """Folder of images, with its subfolders; their keys are their paths in it."""
    corpus: str | None = None
    """Corpus folder below `root`, whose images to take instead."""
    texts: str | None = None
    """Text file with a text on each line, instead of images."""
    out: str = "???"
    """File to write: .parquet with the columns `key`, `row` and `embedding`, or .npy with the embeddings alone and the keys in
    .keys.parquet beside it. It is there whole or not at all; the same command resumes."""
    dtype: str = "float32"
    """`float32`, or `float16`, which takes half the space; the embeddings are computed alike."""
    batch: int = 64
    """Images that are computed at once, and a quarter of the texts."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("batch", self.batch, 1)
        one_of("dtype", self.dtype, DTYPES)


def run(config: EmbedConfig) -> None:
    """Write the file, or resume. ConfigError unless exactly one source is given."""
    given = [key for key in ("images", "corpus", "texts") if getattr(config, key)]
    if len(given) != 1:
        raise ConfigError(f"{' and '.join(given) or 'images'}: give one of images=, corpus= and texts=")
    out = check_path(config.out)
    model = load(config.run_dir, config.device, config.step, config.tokenizer)
    source = _source(config, model)
    ranks = init_ranks(model.opened.device.backend, model.config.distributed)
    try:
        found = embed(model, source, out, config.dtype, config.batch, ranks)
    finally:
        shut_down()
    if not ranks.is_main:
        return
    kind = "texts" if source.images is None else "images"
    lost = source.count - found.total
    print_line(f"{out}: {found.total:,} {kind}{'' if found.written else ', already there'}")
    if lost and found.written:
        print_line(f"left out: {listed(found.left_out, lost)}")


def _source(config: EmbedConfig, model: Model) -> Source:
    if config.corpus:
        return of_corpus(named_corpus(config.corpus, config, model.config))
    return of_folder(config.images, config.follow_links) if config.images else of_texts(config.texts or "")
