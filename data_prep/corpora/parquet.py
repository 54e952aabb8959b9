"""Parquet files with the images in them, as the Hugging Face hub has them: part of `prep captions`."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bridgetower_train.data.shards import BadRecordError, as_list
from bridgetower_train.display import shortened
from bridgetower_train.errors import ConfigError, nearest
from bridgetower_train.files import recreate
from bridgetower_train.foreign import open_regular
from data_prep.packed.files import FilePart, FileParts, named_files, open_named, short_name
from data_prep.packed.parquet import Embedded, columns_of, read_images
from data_prep.source.rows import NO_IMAGE, Place, Row

SUFFIX = ".parquet"
BROKEN = "parquet cannot be read"

_SPLIT = re.compile(r"(train|test|val|validation|dev)(?![a-z])")


class ParquetParts(FileParts):
    """Files whose rows contain an image each."""

    def __init__(
        self, source: str, image: str, wanted: list[tuple[str, str]], follow_links: bool, choices: dict[str, str]
    ) -> None:
        """`wanted`: (kind, or "", column) of the captions. ConfigError as of `named_files`, and for files of several splits."""
        names = named_files(source, SUFFIX, False, follow_links)
        _check_splits(source, names)
        super().__init__(names, follow_links, {"image": image, "captions": json.dumps(wanted), **choices})
        self._image, self._wanted = image, wanted
        if columns := _first_columns(names[0]):
            self.part(0).check(columns)

    def part(self, number: int) -> "ParquetPart":
        return ParquetPart(number, self.names[number], self.follow_links, image=self._image, wanted=self._wanted)


@dataclass
class ParquetPart(FilePart):
    """The images of a file; the rows of equal ones are one."""

    image: str = ""
    wanted: list[tuple[str, str]] = field(default_factory=list)

    def read(self, path: Path) -> list[Row]:
        """ConfigError where it lacks a column, or has no images in `image`."""
        try:
            with open_regular(path) as file:
                self.check(columns_of(file))
        except ConfigError:
            raise
        except ValueError:  # FileError too
            raise BadRecordError(BROKEN) from None
        rows: dict[str, Row] = {}
        columns = [column for _, column in self.wanted]
        with recreate(self.own_file()) as target:
            try:
                for number, found in enumerate(read_images(path, self.image, columns)):
                    known = found.sha256 or str(number)
                    if known not in rows:
                        place = Place(str(self.own_file()), target.tell(), len(found.image))
                        target.write(found.image)
                        rows[known] = self._row(number, found)._replace(places=[place])
                    for kind, column in self.wanted:
                        texts = as_list(found.values[column])
                        rows[known].captions.extend(texts)
                        rows[known].kinds.extend([kind] * len(texts) if kind else [])
            except ValueError as error:
                return [*rows.values(), self.left_out(len(rows), shortened(str(error)), BROKEN)]
        return list(rows.values()) or [self.left_out(0, "", NO_IMAGE)]

    def _row(self, number: int, found: Embedded) -> Row:
        location = f"{short_name(self.name)}/{found.file or number}"
        noted = {"sha256": found.sha256, "file": found.file}
        return Row(self.key(number), location, [], {k: v for k, v in noted.items() if v}, kinds=[], state=found.state)

    def check(self, columns: dict[str, bool]) -> None:
        """ConfigError where these columns, with whether they contain images, are not those that the keys name."""
        shown = shortened(", ".join(columns), 1000)
        keys = [(f"kinds.{kind}" if kind else "caption", column) for kind, column in self.wanted]
        for key, column in [("image", self.image), *keys]:
            if column not in columns:
                raise ConfigError(
                    f"{key}={column}: {self.name} has no such column, but {shown}{nearest(column, columns)}"
                )
        if not columns[self.image]:
            raise ConfigError(
                f"image={self.image}: {self.name} has no images in this column; such a table is read alone, as source=FILE"
            )


def has_images(source: Path) -> bool:
    """Whether a local Parquet file contains images."""
    return any(_first_columns(str(source)).values())


def _first_columns(name: str) -> dict[str, bool]:
    try:
        with open_named(name) as file:
            return columns_of(file)
    except Exception:  # every protocol of fsspec has errors of its own; whoever reads all of the file will name them
        return {}


def _check_splits(source: str, names: Sequence[str]) -> None:
    """ConfigError where files of several splits were found, some of which are for evaluation."""
    found = {match[1] for name in names for part in name.split("/")[-2:] if (match := _SPLIT.match(part))}
    if len(found) > 1:
        raise ConfigError(
            f"source={source}: has the splits {', '.join(sorted(found))}; name the files of one, as in "
            f"source={source.rstrip('/')}/**/{max(found)}*{SUFFIX}"
        )
