"""A web server on the loopback, for a block of a test."""

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Folder(SimpleHTTPRequestHandler):
    """Serves a folder, and logs nothing."""

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving(handler: Callable[..., Any]) -> Iterator[str]:
    """Host and port at which `handler` answers."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def of_folder(folder: Path, handler: type[Folder] = Folder) -> Callable[..., Any]:
    """`handler` of the files in `folder`."""
    return functools.partial(handler, directory=str(folder))
