"""A stand-in of the Hugging Face Hub: what huggingface_hub asks of it over HTTP, kept in memory.

Repositories with branches and commits, files in git or as LFS objects, tokens that may read or
write. ``requests`` has every request that arrived.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml

WRITER, READER = "hf_writer", "hf_reader"
"""Tokens of the user ``user``: one may write into its repositories, the other only read them."""


@dataclass
class Repo:
    """A model repository."""

    repo_id: str
    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Content of every file, by commit."""
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        oid = hashlib.sha1(f"{branch} {len(self.commits)}".encode()).hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid
        self.messages.append(message)
        return oid

    def files(self, branch: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches[branch]]


@dataclass(frozen=True)
class Request:
    """One that arrived."""

    method: str
    path: str
    token: str | None


class Hub:
    """What the server holds."""

    def __init__(self) -> None:
        self.url = ""
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        """LFS objects by SHA-256."""
        self.requests: list[Request] = []
        self.on_object: Callable[[], object] = lambda: None
        """Called when an LFS object has arrived."""

    def add(self, repo_id: str, folder: Path | None = None, *, private: bool = False) -> Repo:
        """A repository with the files of a folder."""
        repo = self.repos[repo_id] = Repo(repo_id, private)
        files = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}
        for path in folder.rglob("*") if folder else ():
            if path.is_file():
                files[path.relative_to(folder).as_posix()] = path.read_bytes()
        repo.commit("main", files, "initial commit")
        return repo


class RefusedError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, code: str = "", message: str = "", commit: str = "") -> None:
        super().__init__(status)
        self.status, self.message = status, message
        headers = {"X-Error-Code": code, "X-Error-Message": message, "X-Repo-Commit": commit}
        self.headers = {name: value for name, value in headers.items() if value}


class Handler(BaseHTTPRequestHandler):
    """One request."""

    hub: Hub

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_GET  # noqa: N815
    do_POST = do_GET  # noqa: N815
    do_PUT = do_GET  # noqa: N815

    def _answer(self) -> None:
        authorization = self.headers.get("Authorization", "")
        self.token = authorization.removeprefix("Bearer ") or None
        self.hub.requests.append(Request(self.command, self.path, self.token))
        body = self._body()
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        words = [unquote(word) for word in url.path.strip("/").split("/")]
        try:
            if self.token not in (None, WRITER, READER):
                raise RefusedError(401, message="Invalid credentials in Authorization header")
            self._route(words, body)
        except RefusedError as refused:
            error = json.dumps({"error": refused.message}).encode()
            self._send(refused.status, error, refused.headers)

    def _route(self, words: list[str], body: bytes) -> None:
        match (self.command, *words):
            case ("POST", "api", "repos", "create"):
                self._create(json.loads(body))
            case ("POST", "api", "validate-yaml"):
                self._validate(json.loads(body))
            case ("GET", "api", "models", user, name):
                self._info(self._repo(user, name), "main")
            case ("GET", "api", "models", user, name, "revision", revision):
                self._info(self._repo(user, name), revision)
            case ("POST", "api", "models", user, name, "branch", branch):
                repo = self._repo(user, name, write=True)
                repo.branches[branch] = repo.branches["main"]
                self._json({})
            case ("POST", "api", "models", user, name, "preupload", revision):
                self._preupload(self._repo(user, name, write=True), revision, json.loads(body))
            case ("POST", "api", "models", user, name, "commit", branch):
                lines = [json.loads(line) for line in body.splitlines()]
                self._commit(self._repo(user, name, write=True), branch, lines)
            case ("POST", user, name, "info", "lfs", "objects", "batch"):
                self._repo(user, name.removesuffix(".git"), write=True)
                self._batch(json.loads(body))
            case ("PUT", "lfs", oid):
                if hashlib.sha256(body).hexdigest() != oid:
                    raise RefusedError(400, message="the content has another hash")
                self.hub.objects[oid] = body
                self.hub.on_object()
                self._json({})
            case ("POST", "lfs", "verify"):
                if json.loads(body)["oid"] not in self.hub.objects:
                    raise RefusedError(404, message="no such object")
                self._json({})
            case ("GET" | "HEAD", user, name, "resolve", revision, *path):
                self._file(self._repo(user, name), revision, "/".join(path))
            case _:
                raise RefusedError(404, message=f"nothing at {self.path}")

    def _repo(self, user: str, name: str, *, write: bool = False) -> Repo:
        repo = self.hub.repos.get(f"{user}/{name}")
        if repo is None or (repo.private and self.token is None):
            raise RefusedError(404, "RepoNotFound", "Repository not found")
        if write and (self.token != WRITER or user != "user"):
            raise RefusedError(403, message="You have no write access")
        return repo

    def _files(self, repo: Repo, revision: str) -> tuple[str, dict[str, bytes]]:
        oid = repo.branches.get(revision, revision)
        if oid not in repo.commits:
            raise RefusedError(404, "RevisionNotFound", "Revision not found")
        return oid, repo.commits[oid]

    def _create(self, asked: dict[str, Any]) -> None:
        if self.token is None:
            raise RefusedError(401, message="Not logged in")
        if self.token != WRITER or asked["organization"] != "user":
            raise RefusedError(403, message=f"You may not create in {asked['organization']}")
        repo_id = f"{asked['organization']}/{asked['name']}"
        if repo_id in self.hub.repos:
            raise RefusedError(409, message="You already created this model repo")
        self.hub.add(repo_id, private=asked.get("visibility") == "private")
        self._json({"url": f"{self.hub.url}/{repo_id}"})

    def _validate(self, asked: dict[str, Any]) -> None:
        _, _, rest = asked["content"].partition("---\n")
        header = yaml.safe_load(rest.partition("\n---\n")[0])
        if not isinstance(header, dict) or "library_name" not in header:
            raise RefusedError(400, message="no metadata")
        self._json({"errors": [], "warnings": []})

    def _info(self, repo: Repo, revision: str) -> None:
        oid, files = self._files(repo, revision)
        siblings = [{"rfilename": name} for name in sorted(files)]
        self._json({"id": repo.repo_id, "sha": oid, "private": repo.private, "siblings": siblings})

    def _preupload(self, repo: Repo, revision: str, asked: dict[str, Any]) -> None:
        self._files(repo, revision)
        self._json(
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for file in asked["files"]
                ]
            }
        )

    def _batch(self, asked: dict[str, Any]) -> None:
        answers = []
        for thing in asked["objects"]:
            answer = {"oid": thing["oid"], "size": thing["size"]}
            if thing["oid"] not in self.hub.objects:
                answer["actions"] = {
                    "upload": {"href": f"{self.hub.url}/lfs/{thing['oid']}"},
                    "verify": {"href": f"{self.hub.url}/lfs/verify"},
                }
            answers.append(answer)
        self._json({"transfer": "basic", "objects": answers})

    def _commit(self, repo: Repo, branch: str, lines: list[dict[str, Any]]) -> None:
        oid, files = self._files(repo, branch)
        files, header = dict(files), lines[0]["value"]
        if header.get("parentCommit", oid) != oid:
            raise RefusedError(412, message="A commit has happened since")
        for line in lines[1:]:
            value = line["value"]
            match line["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.hub.objects[value["oid"]]
                case "deletedFile":
                    if files.pop(value["path"], None) is None:
                        raise RefusedError(
                            404, "EntryNotFound", "A file with this name doesn't exist"
                        )
                case other:
                    raise RefusedError(400, message=f"unknown operation {other}")
        made = repo.commit(branch, files, header["summary"])
        self._json({"commitUrl": f"{self.hub.url}/{repo.repo_id}/commit/{made}", "commitOid": made})

    def _file(self, repo: Repo, revision: str, path: str) -> None:
        oid, files = self._files(repo, revision)
        if path not in files:
            # The commit lets the client remember that it has no such file.
            raise RefusedError(404, "EntryNotFound", "Entry not found", oid)
        content = files[path]
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        self._send(200, content, {"ETag": etag, "X-Repo-Commit": oid})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def use_hub(hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make huggingface_hub ask it, and keep its cache in `home`, as its environment would."""
    # Not above: a program may have to set its environment before this is imported.
    from huggingface_hub import constants

    template = "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in {
        "ENDPOINT": hub.url,  # HF_ENDPOINT
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + template,
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.delenv("HF_TOKEN", raising=False)


@contextmanager
def serving_hub() -> Iterator[Hub]:
    """A Hub on a socket of its own."""
    hub = Hub()
    handler = type("HubHandler", (Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
