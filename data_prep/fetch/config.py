"""The keys of fetching."""

from dataclasses import dataclass, field

from bridgetower_train.config import at_least


@dataclass(frozen=True)
class FetchConfig:
    """How images are fetched from the web."""

    in_flight: int = 2000
    """URLs that are being fetched at any moment; each needs a file descriptor."""
    per_host: int = 16
    """Connections to one host that are at work at any moment; as many more may be idle, for 2 seconds each."""
    ahead: int = 20_000
    """Rows of the source that wait at any moment, most of them for their host, so that a slow host holds up no other."""
    deadline: float = 30.0
    """Seconds for a URL from its first connection to its last byte, with all redirects and retries."""
    connect_timeout: float = 10.0
    """Seconds for one connection, TLS included."""
    retries: int = 1
    """Further attempts after 429, 500, 502, 503, 504, a reset or a connection that ended early, within the deadline."""
    redirects: int = 5
    """Redirects that are followed."""
    max_bytes: int = 32 << 20
    """Bytes of an image, as sent and as unpacked."""
    memory_mb: int = 512
    """Megabytes of images that are held at any moment, fetched and prepared ones together."""
    min_edge: int = 64
    """Shorter edge of the least image, pixels: what is smaller is a placeholder (CC3M took 400 and more, CC12M 256)."""
    contact: str = ""
    """A page or address at which owners of sites reach you; joins the user agent. Some sites refuse those without."""
    nameservers: list[str] = field(default_factory=list)
    """DNS servers (`10.0.0.2`, `127.0.0.1:5353`); empty: those of the system. Millions of names want a resolver of one's own."""
    dns_ttl: float = 600.0
    """Seconds for which an answer of the DNS holds, be it addresses or that there are none."""
    allow_loopback: bool = False
    """Fetch from this machine too (127.0.0.0/8, ::1): for mirrors and tests. Other private addresses stay refused."""

    def __post_init__(self) -> None:
        least = {
            "in_flight": 1, "per_host": 1, "ahead": self.in_flight, "deadline": 0.1, "connect_timeout": 0.1, "retries": 0,
            "redirects": 0, "max_bytes": 1, "memory_mb": 1, "min_edge": 1, "dns_ttl": 0,
        }  # fmt: skip
        for name, minimum in least.items():
            at_least(f"fetch.{name}", getattr(self, name), minimum)
