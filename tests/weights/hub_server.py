"""A Hugging Face hub on the loopback, as far as downloads and uploads of models, and reading of data sets, go.

    python hub_server.py FOLDER TOKEN

FOLDER/owner/name/ are the models, FOLDER/datasets/owner/name/ the data sets, each of one commit. FOLDER/asked lists the revisions
that were asked for. Prints its address.
"""

import base64
import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

COMMIT, TAG = "c" * 40, "v1.0"


class Hub(BaseHTTPRequestHandler):
    root: Path
    token: str
    asked: ClassVar[list[str]] = []

    def answer(self, code: int, content: object = None, **headers: str) -> None:
        body = json.dumps(content or {}).encode() if not isinstance(content, bytes) else content
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self) -> None:
        path = urlsplit(self.path).path.strip("/")
        if path.startswith("api/datasets/"):
            return self.of_data_set(path)
        if path.startswith("api/models/"):  # huggingface_hub 0.30 asks it before an upload
            return self.answer(200, {"id": path.removeprefix("api/models/").partition("/revision/")[0], "sha": COMMIT})
        model, _, wanted = path.partition("/resolve/")
        revision, _, file = wanted.partition("/")
        if not (self.root / model).is_dir():
            return self.answer(404, {"error": "no such model"}, X_Error_Code="RepoNotFound")
        self.asked.append(f"{model}@{revision}")
        (self.root / "asked").write_text("\n".join(self.asked))
        if revision not in ("main", TAG, COMMIT):
            return self.answer(404, {"error": "no such revision"}, X_Error_Code="RevisionNotFound")
        stored = self.root / model / file
        if not file or not stored.is_file():
            return self.answer(404, {"error": "no such file"}, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        content = stored.read_bytes()
        if wanted_range := self.headers.get("Range"):
            first, last = (int(number) for number in wanted_range.removeprefix("bytes=").split("-"))
            return self.answer(206, content[first : last + 1])
        return self.answer(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=COMMIT)

    def of_data_set(self, path: str) -> None:
        """What a data set contains: the tree below a path of it, or what some paths are."""
        owner, name, *rest = path.removeprefix("api/datasets/").split("/")
        action, *where = rest or ["revision"]
        folder = self.root / "datasets" / owner / name
        if not folder.is_dir():
            return self.answer(404, {"error": "no such data set"}, X_Error_Code="RepoNotFound")
        if action == "revision":
            return self.answer(200, {"id": f"{owner}/{name}", "sha": COMMIT})
        below = folder.joinpath(*where[1:])
        found = sorted(below.rglob("*")) if action == "tree" else []
        if action == "paths-info":
            asked = parse_qs(self.body().decode())["paths"]
            found = [folder / path for path in asked if (folder / path).exists()]
        return self.answer(200, [self.entry(folder, path) for path in found])

    def entry(self, folder: Path, path: Path) -> dict[str, object]:
        kind = "directory" if path.is_dir() else "file"
        size = 0 if path.is_dir() else path.stat().st_size
        return {"type": kind, "path": str(path.relative_to(folder)), "oid": "a" * 40, "size": size}

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        if self.path.startswith("/api/datasets/"):
            return self.of_data_set(urlsplit(self.path).path.strip("/"))
        body, path = self.body(), urlsplit(self.path).path
        address = f"http://{self.headers['Host']}"
        if self.headers.get("Authorization") != f"Bearer {self.token}":
            return self.answer(401, {"error": "Invalid token"})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            (self.root / name).mkdir(parents=True, exist_ok=True)
            (self.root / name / ".asked.json").write_text(json.dumps(asked))
            return self.answer(200, {"url": f"{address}/{name}", "name": name})
        if path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        model, _, action = path.removeprefix("/api/models/").rpartition("/")
        if "/preupload/" in path:
            model = path.removeprefix("/api/models/").split("/preupload/")[0]
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": files})
        if "/commit/" in path:
            model = path.removeprefix("/api/models/").split("/commit/")[0]
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    (self.root / model / value["path"]).write_bytes(base64.b64decode(value["content"]))
            url = f"{address}/{model}/commit/{COMMIT}"
            return self.answer(200, {"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""})
        return self.answer(404, {"error": action})

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


if __name__ == "__main__":
    Hub.root, Hub.token = Path(sys.argv[1]), sys.argv[2]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
