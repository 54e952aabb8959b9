"""`X-Robots-Tag`: whether a site allows the use of an image."""

from collections.abc import Iterable

AGENT = "bridgetower-train"
"""The name of this program in `X-Robots-Tag`, and the start of its user agent."""

_REFUSALS = {"noai", "noimageai", "noindex", "noimageindex", "none"}
# These are not agents, though a colon follows.
_WITH_VALUE = {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}


def opted_out(headers: Iterable[str]) -> str:
    """The directive among the `X-Robots-Tag` headers that refuses the image to this program, or an empty string.

    Directives apply to everyone, or, after `name:`, to the agent of that name (`otherbot: noindex, noai`).
    """
    for header in headers:
        addressed = True
        for part in header.lower().split(","):
            name, colon, directive = (text.strip() for text in part.partition(":"))
            if not colon or name in _WITH_VALUE:
                directive = name
            else:
                addressed = name in (AGENT, "*")
            if addressed and directive in _REFUSALS:
                return directive
    return ""
