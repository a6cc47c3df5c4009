"""A real HTTP server on loopback that speaks enough of the Hub's API for its real client to make repositories of data
sets, and to read models of one commit or another.

Start it by ``with HubApi() as hub:`` and give a process ``hub.environment``: it has the endpoint, and a token. Large
files go the way of Git LFS, as on the Hub for clients without Xet. Faults are set as attributes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TOKEN = "hf_testTokenThatNobodyMaySee"
LFS_SUFFIXES = (".parquet", ".arrow")
COMMIT = "0" * 40


@dataclass
class Repository:
    """What the Hub has of a repository."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    num_commits: int = 0


@dataclass
class Model:
    """A model's commits, each with all of its files, in the order in which they were pushed."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    @property
    def main(self) -> str:
        return list(self.commits)[-1]

    def files_of(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commit = self.main if revision == "main" else revision
        return (commit, self.commits[commit]) if commit in self.commits else None


class HubApi:
    """The server and what it holds."""

    def __init__(self) -> None:
        self.begin_anew()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))

    def begin_anew(self) -> None:
        """Forgets everything, faults included."""
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}  # by SHA-256, as LFS has them
        self.models: dict[str, Model] = {}
        self.revisions_read: list[tuple[str, str]] = []  # of models: which revision of which file was asked for
        self.num_requests = 0
        self.role = "write"  # what the token may do
        self.num_outages = 0  # uploads of files that fail before one succeeds
        self.refuses_commits = False
        self.num_failures = 0  # requests for a model's files that fail before one succeeds
        self.is_away = False  # connections end without an answer

    def push_model(self, name: str, directory: Path) -> str:
        """The files of a directory as the model's newest commit; returns that."""
        model = self.models.setdefault(name, Model())
        commit = hashlib.sha1(f"{name} {len(model.commits)}".encode()).hexdigest()
        model.commits[commit] = {path.name: path.read_bytes() for path in directory.iterdir()}
        return commit

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        return {"HF_ENDPOINT": self.endpoint, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}

    def __enter__(self) -> HubApi:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: HubApi
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        self.hub.num_requests += 1
        if self.hub.is_away:
            self.close_connection = True
            return None
        if path.startswith("/blobs/"):
            return self._put_blob(path.removeprefix("/blobs/"), body)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._reply(401, {"error": "Invalid credentials"})
        for method, pattern, answer in _ROUTES:
            if method == self.command and (match := re.fullmatch(pattern, path)):
                return answer(self, body, *match.groups())
        return self._reply(404, {"error": f"not spoken here: {self.command} {path}"})

    def _reply(self, status: int, content: Any, headers: Mapping[str, str] = {}) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _put_blob(self, oid: str, body: bytes) -> None:
        if self.hub.num_outages:
            self.hub.num_outages -= 1
            return self._reply(503, {"error": "try again"})
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.blobs[oid] = body
        return self._reply(200, {})

    def who_am_i(self, _: bytes) -> None:
        access = {"displayName": "test", "role": self.hub.role}
        self._reply(200, {"name": "user", "auth": {"type": "access_token", "accessToken": access}})

    def create(self, body: bytes) -> None:
        wanted = json.loads(body)
        assert wanted["type"] == "dataset"
        name = f"{wanted.get('organization') or 'user'}/{wanted['name']}"
        if name in self.hub.repositories:
            return self._reply(409, {"error": "exists", "url": f"{self.hub.endpoint}/datasets/{name}"})
        private = wanted.get("private") is True or wanted.get("visibility") == "private"
        self.hub.repositories[name] = Repository(private=private)
        return self._reply(200, {"url": f"{self.hub.endpoint}/datasets/{name}", "name": name})

    def validate_yaml(self, body: bytes) -> None:
        assert json.loads(body)["repoType"] == "dataset"
        self._reply(200, {"errors": [], "warnings": []})

    def tree(self, _: bytes, name: str) -> None:
        files = self.hub.repositories[name].files
        entries = [
            {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for path, content in files.items()
        ]
        self._reply(200, entries)

    def info(self, _: bytes, name: str) -> None:
        siblings = [{"rfilename": path} for path in self.hub.repositories[name].files]
        self._reply(200, {"id": name, "sha": COMMIT, "private": True, "siblings": siblings, "tags": [], "downloads": 0})

    def model_info(self, _: bytes, name: str, revision: str = "main") -> None:
        found = self.hub.models[name].files_of(revision) if name in self.hub.models else None
        if found is None:
            return self._reply(404, {"error": "Not Found"}, {"X-Error-Code": "RepoNotFound"})
        commit, files = found
        siblings = [{"rfilename": path} for path in files]
        return self._reply(200, {"id": name, "sha": commit, "private": False, "siblings": siblings, "tags": []})

    def model_tree(self, _: bytes, name: str, revision: str, folder: str) -> None:
        """No model here has folders."""
        self._reply(404, {"error": f"no {folder} in {name}@{revision}"}, {"X-Error-Code": "EntryNotFound"})

    def model_file(self, _: bytes, name: str, revision: str, path: str) -> None:
        self.hub.revisions_read.append((revision, path))
        if self.hub.num_failures:
            self.hub.num_failures -= 1
            return self._reply(503, {"error": "try again"})
        if name not in self.hub.models:
            return self._reply(404, {"error": "Not Found"}, {"X-Error-Code": "RepoNotFound"})
        found = self.hub.models[name].files_of(revision)
        if found is None:
            return self._reply(404, {"error": "Not Found"}, {"X-Error-Code": "RevisionNotFound"})
        commit, files = found
        if path not in files:
            return self._reply(404, {"error": "Not Found"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        etag = hashlib.sha1(files[path]).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Content-Type": "application/octet-stream"}
        return self._reply(200, files[path], headers)

    def preupload(self, body: bytes, name: str) -> None:
        assert name in self.hub.repositories
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        self._reply(200, {"files": files})

    def lfs_batch(self, body: bytes, name: str) -> None:
        assert name in self.hub.repositories
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.hub.endpoint}/blobs/{each['oid']}?signature=secret"}}}
            for each in json.loads(body)["objects"]
        ]
        self._reply(200, {"transfer": "basic", "objects": objects})

    def commit(self, body: bytes, name: str) -> None:
        if self.hub.refuses_commits:
            return self._reply(403, {"error": f"Forbidden: {self.hub.endpoint}/x?signature=secret {TOKEN}"})
        repository = self.hub.repositories[name]
        for line in body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                repository.files[value["path"]] = self.hub.blobs[value["oid"]]
            elif operation["key"] == "deletedFile":
                del repository.files[value["path"]]
        repository.num_commits += 1
        url = f"{self.hub.endpoint}/datasets/{name}/commit/{COMMIT}"
        return self._reply(200, {"commitUrl": url, "commitOid": COMMIT})


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES: tuple[tuple[str, str, Any], ...] = (
    ("GET", "/api/whoami-v2", _Handler.who_am_i),
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate_yaml),
    ("GET", f"/api/datasets/{_NAME}", _Handler.info),
    ("GET", f"/api/datasets/{_NAME}/revision/main", _Handler.info),
    ("GET", f"/api/datasets/{_NAME}/tree/main", _Handler.tree),
    ("POST", f"/api/datasets/{_NAME}/preupload/main", _Handler.preupload),
    ("POST", f"/datasets/{_NAME}.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("POST", f"/api/datasets/{_NAME}/commit/main", _Handler.commit),
    ("GET", f"/api/models/{_NAME}", _Handler.model_info),
    ("GET", f"/api/models/{_NAME}/revision/([^/]+)", _Handler.model_info),
    ("GET", f"/api/models/{_NAME}/tree/([^/]+)/(.+)", _Handler.model_tree),
    ("HEAD", f"/{_NAME}/resolve/([^/]+)/(.+)", _Handler.model_file),
    ("GET", f"/{_NAME}/resolve/([^/]+)/(.+)", _Handler.model_file),
)
