"""An object store (moto's S3) on the loopback that can be told to misbehave."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

BUCKET = "bucket"
SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)


class Store:
    """A server with one bucket. `fault` says, by method and path of a request, what becomes of it."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.fault: Callable[[str, str], str] = lambda method, path: ""
        """`error`: 500; `slow down`: 503; `forbid`: 403; `cut`: half of the body; `wait`: a pause; "": as it should be."""
        self.requests: Counter[tuple[str, str]] = Counter()
        """(method, path) -> requests, the failed ones included."""

    def put(self, files: dict[str, Path]) -> None:
        """Upload files: key -> path."""
        import fsspec

        fs = fsspec.filesystem("s3")
        for key, path in files.items():
            fs.put_file(str(path), f"{BUCKET}/{key}")

    def gets(self, suffix: str) -> int:
        """Bodies that were asked for, of keys that end so."""
        return sum(
            count for (method, path), count in self.requests.items() if method == "GET" and path.endswith(suffix)
        )


@contextmanager
def object_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store that s3:// means for this process and its children."""
    pytest.importorskip("moto", reason="moto is not installed")
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    from moto.backends import get_backend
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log_request(self, *args: Any) -> None:
            pass

    moto = DomainDispatcherApplication(create_backend_app)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        request = environ["REQUEST_METHOD"], unquote(environ["PATH_INFO"])
        store.requests[request] += 1
        fault = store.fault(*request)
        if fault == "error":
            start_response("500 Internal Server Error", [("Content-Length", "0")])
            return [b""]
        if fault == "forbid":
            start_response("403 Forbidden", [("Content-Length", "0")])
            return [b""]
        if fault == "slow down":
            start_response(
                "503 Slow Down", [("Content-Type", "application/xml"), ("Content-Length", str(len(SLOW_DOWN)))]
            )
            return [SLOW_DOWN]
        if fault == "wait":
            time.sleep(0.3)
        answer = moto(environ, start_response)
        if fault == "cut":
            body = b"".join(answer)
            return [body[: len(body) // 2]]
        return answer

    with make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet) as server:
        store = Store(server.server_port)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        for name, value in {
            "AWS_ENDPOINT_URL": store.url, "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key",
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir(BUCKET)
        try:
            yield store
        finally:
            server.shutdown()
            s3fs.S3FileSystem.clear_instance_cache()
            get_backend("s3").reset()
