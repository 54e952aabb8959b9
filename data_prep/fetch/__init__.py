"""Pictures from the web: many URLs at once, within limits of time, bytes and memory, each with the truth about its end."""

from data_prep.fetch.config import FetchConfig
from data_prep.fetch.pictures import WebPictures

__all__ = ["FetchConfig", "WebPictures"]
