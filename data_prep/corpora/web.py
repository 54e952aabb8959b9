"""What the preparations of corpora from the web have in common."""

from dataclasses import dataclass, field

from data_prep.fetch.config import FetchConfig
from data_prep.fetch.images import WebImages
from data_prep.job.job import JobConfig, run_job
from data_prep.source.rows import Table


@dataclass(frozen=True)
class WebConfig(JobConfig):
    """Keys of every preparation that fetches images from the web."""

    fetch: FetchConfig = field(default_factory=FetchConfig)
    """Fetching and its limits."""


def prepare_from_web(config: WebConfig, table: Table, about: dict[str, str], history: str) -> None:
    """Run the job, and print its yield beside `history`: the yields of others with the same list, and when."""
    source = WebImages(config.size, config.workers, config.fetch)
    manifest = run_job(config, table, source, {**about, "note": f"{about['note']}; others got {history}"})
    rows, images = manifest.extra["rows"], manifest.images
    print(f"yield {images / rows:.1%}: {images:,} images of {rows:,} rows; others got {history}")
