"""The keys of fetching."""

from dataclasses import dataclass, field

from bridgetower_train.config import at_least


@dataclass(frozen=True)
class FetchConfig:
    """How images are fetched from the web."""

    in_flight: int = 2000
    """URLs that are fetched at the same time; each needs a file descriptor."""
    per_host: int = 16
    """Active connections to one host; as many more may be idle, for 2 seconds each."""
    ahead: int = 20_000
    """Rows of the source that wait, most of them for their host, so that a slow host does not delay the others."""
    deadline: float = 30.0
    """Seconds for a URL from its first connection to its last byte, with all redirects and retries; not for `Retry-After`."""
    connect_timeout: float = 10.0
    """Seconds for one connection, TLS included."""
    retries: int = 1
    """Further attempts after 429, 500, 502, 503, 504, a reset or a connection that ended early, within the deadline."""
    retry_after: float = 120.0
    """Most seconds of a `Retry-After` that are waited for; no URL of the host is fetched meanwhile. Where a server asks for more,
    the URL ends in its status, and the host is left alone for this time."""
    redirects: int = 5
    """Redirects to follow."""
    max_bytes: int = 32 << 20
    """Bytes of an image, as sent and as unpacked."""
    memory_mb: int = 512
    """Megabytes of images in memory, fetched and prepared ones together; each of `workers` may take 512 more to decode one."""
    min_edge: int = 64
    """Smallest shorter edge of an image, pixels: smaller ones are placeholders (CC3M took 400 and more, CC12M 256)."""
    contact: str = ""
    """A page or address where owners of sites can reach you, for the user agent. Some sites refuse those without."""
    nameservers: list[str] = field(default_factory=list)
    """DNS servers (`10.0.0.2`, `127.0.0.1:5353`); empty: those of the system. Millions of names need a resolver of your own."""
    dns_ttl: float = 600.0
    """Seconds for which an answer of the DNS is cached, addresses or a failure."""
    allow_loopback: bool = False
    """Fetch from this machine too (127.0.0.0/8, ::1): for mirrors and tests. Other private addresses stay refused."""

    def __post_init__(self) -> None:
        least = {
            "in_flight": 1, "per_host": 1, "ahead": self.in_flight, "deadline": 0.1, "connect_timeout": 0.1, "retries": 0,
            "retry_after": 0, "redirects": 0, "max_bytes": 1, "memory_mb": 1, "min_edge": 1, "dns_ttl": 0,
        }  # fmt: skip
        for name, minimum in least.items():
            at_least(f"fetch.{name}", getattr(self, name), minimum)
