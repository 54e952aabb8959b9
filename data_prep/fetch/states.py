"""The states in which a URL can end, besides those of the images themselves (`bridgetower_train.data.image`).

An HTTP status other than 200 is its own state: "404", "403", "503".
"""

BAD_URL = "bad url"
REFUSED_SCHEME = "refused scheme"
REFUSED_ADDRESS = "refused address"
TOO_MANY_REDIRECTS = "too many redirects"
DNS = "dns"
CONNECTION = "connection"
TLS = "tls"
TIMEOUT = "timeout"
BAD_RESPONSE = "bad response"
TRUNCATED = "truncated"
TOO_LARGE = "too large"
OPTED_OUT = "opted out"
BAD_ENCODING = "bad encoding"
HASH_MISMATCH = "hash mismatch"
TOO_SMALL = "too small"
DECODER_DIED = "decoder died"
DECODER_TIMED_OUT = "decoder timed out"
FAILED = "failed"

UNANSWERED = {DNS, CONNECTION, TIMEOUT}
"""States in which perhaps no server has answered."""
RETRIED = {429, 500, 502, 503, 504}
"""HTTP statuses that may be temporary."""


class NotAnImageError(Exception):
    """A URL gives no image: its state and details.

    `wait`: seconds that the server asks to wait for; 0 for none; None where a retry is useless.
    """

    def __init__(self, state: str, detail: str = "", wait: float | None = None) -> None:
        super().__init__(state, detail)
        self.state = state
        self.detail = detail
        self.wait = wait


class RefusedAddressError(OSError):
    """A host has no address that may be fetched from."""
