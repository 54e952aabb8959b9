"""What the writer of a corpus has recorded about its source, as far as it can be read."""

from dataclasses import dataclass, field
from typing import Any

from bridgetower_train.data.manifest import Manifest


@dataclass(frozen=True)
class Notes:
    """The parts of `manifest.extra` that our own preparation writes; empty where another tool wrote the corpus."""

    title: str = ""
    homepage: str = ""
    licence: str = ""
    note: str = ""
    rows: int = 0
    """Rows of the source."""
    states: dict[str, int] = field(default_factory=dict)
    """State -> number of rows, `ok` among them."""
    source: dict[str, str] = field(default_factory=dict)
    """What the rows depend on: file or rule -> digest or value."""

    @staticmethod
    def of(manifest: Manifest) -> "Notes":
        """Read them; what is missing or of another type is left empty."""
        about = _strings(manifest.extra.get("about"))
        rows, states = manifest.extra.get("rows"), _counts(manifest.extra.get("states"))
        return Notes(
            **{name: about.get(name, "") for name in ("title", "homepage", "licence", "note")},
            rows=rows if isinstance(rows, int) and rows >= manifest.images else 0,
            states=states,
            source=_strings(manifest.extra.get("source")),
        )


def _strings(value: Any) -> dict[str, str]:
    return {str(k): v for k, v in value.items() if isinstance(v, str)} if isinstance(value, dict) else {}


def _counts(value: Any) -> dict[str, int]:
    if not isinstance(value, dict) or not all(isinstance(count, int) and count >= 0 for count in value.values()):
        return {}
    return value if sum(value.values()) else {}
