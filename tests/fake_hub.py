"""A hub on loopback that huggingface_hub talks to as to the real one, and that lies when it is told to.

    with FakeHub() as hub:
        commit = hub.add("someone/model", folder)
        hub.lies["decoder.winter.onnx"] = "truncated"

Large files are redirected to a second address of the same server, as to a CDN.
"""

import base64
import gzip
import hashlib
import json
import re
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

TEXTS = (".json", ".md", "LICENSE", ".txt", ".py")
"""What the Hub keeps itself; everything else is in the store of large files."""
TOKEN = "hf_right"


class FakeHub:
    """Repositories in memory: commits by their hash, files by their path, branches by their name."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.lies: dict[str, str] = {}
        """By path: "wrong", "truncated", "huge", "elsewhere", "cut" (once), "cut-always", "gzip", "to:LOCATION".

        For "*": "endless error", "endless headers".
        """
        self.gated: set[str] = set()
        self.private: set[str] = set()
        self.failing = 0
        """Answer 503 to so many requests."""
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.stored: dict[str, bytes] = {}
        self.commit_messages: list[str] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def cdn(self) -> str:
        return f"http://localhost:{self.port}"

    def reset(self) -> None:
        """Honest again, and with nothing remembered but the repositories."""
        self.lies.clear()
        self.gated.clear()
        self.private.clear()
        self.requests.clear()
        self.failing = 0

    def add(self, repo: str, folder: Path, *, branch: str = "main", **changed: bytes | None) -> str:
        """Makes a commit of the files in `folder`; gives its hash. `changed`: other bytes by path, or None."""
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return self.commit(repo, files | changed, branch)

    def commit(self, repo: str, files: dict[str, bytes | None], branch: str = "main") -> str:
        kept = {path: data for path, data in files.items() if data is not None}
        number = len(self.repos.setdefault(repo, {}))
        digest = hashlib.sha1(repr((repo, number, sorted(kept))).encode()).hexdigest()
        self.repos[repo][digest] = kept
        self.branches.setdefault(repo, {})[branch] = digest
        return digest

    def asked(self, path: str) -> list[tuple[str, str, dict[str, str]]]:
        """The requests for a path that ends so."""
        return [one for one in self.requests if urlsplit(one[1]).path.endswith(path)]


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_args: Any) -> None:
        pass

    def _answer(self, code: int, data: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _json(self, tree: Any, code: int = 200) -> None:
        self._answer(code, json.dumps(tree).encode(), Content_Type="application/json")

    def _refuse(self, code: int, kind: str, message: str = "no") -> None:
        self._answer(code, X_Error_Code=kind, X_Error_Message=message)

    def _note(self) -> None:
        self.hub.requests.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))

    def _stopped(self, repo: str) -> bool:
        """Answers for a repository that is not there, or not for this visitor."""
        token = self.headers.get("authorization")
        if token not in (None, f"Bearer {TOKEN}") and not token.startswith("Basic "):  # of a proxy before it
            self._refuse(401, "", "Invalid credentials in Authorization header")
        elif repo not in self.hub.repos or (repo in self.hub.private and token is None):
            self._refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        else:
            return False
        return True

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self._note()
        if self.hub.failing > 0:
            self.hub.failing -= 1
            self._answer(503)
            return
        if self.hub.lies.get("*") == "endless error":
            self._endless(500)
            return
        if self.hub.lies.get("*") == "endless headers":
            self._endless_headers()
            return
        path = unquote(urlsplit(self.path).path)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._info(match[1], match[2] or "main")
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(match[1], match[2], match[3])
        elif match := re.fullmatch(r"/cdn/([0-9a-f]{64})/(.+)", path):
            self._send(self.hub.stored[match[1]], match[2])
        elif path == "/internal":
            self._answer(200, b'{"secret": 1}')
        else:
            self._answer(404)

    def _files(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commit = self.hub.branches.get(repo, {}).get(revision, revision)
        files = self.hub.repos.get(repo, {}).get(commit)
        return None if files is None else (commit, files)

    def _info(self, repo: str, revision: str) -> None:
        if self._stopped(repo):
            return
        found = self._files(repo, revision)
        if found is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        files = [{"rfilename": name, "size": len(data)} for name, data in found[1].items()]
        self._json({"id": repo, "sha": found[0], "siblings": files})

    def _resolve(self, repo: str, revision: str, path: str) -> None:
        if self._stopped(repo):
            return
        if repo in self.hub.gated:
            self._refuse(403, "GatedRepo", "Access to this model is restricted")
            return
        found = self._files(repo, revision)
        if found is None:
            self._refuse(404, "RevisionNotFound")
            return
        data = found[1].get(path)
        if data is None:
            self._refuse(404, "EntryNotFound", "Entry not found")
        elif self.hub.lies.get(path, "").startswith("to:"):
            self._answer(302, Location=self.hub.lies[path].removeprefix("to:"))
        elif self.hub.lies.get(path) == "gzip":
            self._answer(200, gzip.compress(data), Content_Encoding="gzip")
        elif self.hub.lies.get(path) == "elsewhere":
            self._answer(302, Location=f"{self.hub.cdn}/internal")
        elif not path.endswith(TEXTS):
            digest = hashlib.sha256(data).hexdigest()
            self.hub.stored[digest] = data
            self._answer(302, Location=f"{self.hub.cdn}/cdn/{digest}/{path}", X_Repo_Commit=found[0])
        else:
            self._send(data, path, commit=found[0])

    def _send(self, data: bytes, path: str, commit: str = "") -> None:
        lie = self.hub.lies.get(path)
        if lie == "wrong":
            data = bytes([data[0] ^ 1]) + data[1:]
        elif lie == "truncated":
            data = data[: len(data) // 2]
        elif lie == "huge":
            self._endless(200)
            return
        total, begin, code, headers = len(data), 0, 200, {"X_Repo_Commit": commit} if commit else {}
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            begin, code = int(match[1]), 206
            headers["Content_Range"] = f"bytes {begin}-{total - 1}/{total}"
        rest = data[begin:]
        if lie in ("cut", "cut-always"):
            if lie == "cut":
                del self.hub.lies[path]
            self._answer(code, rest[: len(rest) // 2], Content_Length=str(len(rest)), **headers)
            self.wfile.flush()
            self.close_connection = True
            return
        self._answer(code, rest, **headers)

    def _endless(self, code: int) -> None:
        self.send_response(code)
        self.end_headers()
        self.close_connection = True
        with suppress(OSError):
            while True:
                self.wfile.write(bytes(1 << 16))

    def _endless_headers(self) -> None:
        """A few bytes at a time, so that no wait between two of them is long."""
        self.close_connection = True
        with suppress(OSError):
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-A: ")
            while True:
                self.wfile.write(b"a")
                time.sleep(0.05)

    # Pushing

    def do_PUT(self) -> None:
        self._note()
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.stored[hashlib.sha256(data).hexdigest()] = data
        self._answer(200)

    def do_POST(self) -> None:
        self._note()
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        if path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
            return
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            self._refuse(401, "", "Invalid credentials in Authorization header")
        elif path == "/api/repos/create":
            wish = json.loads(data)
            repo = f"{wish['organization']}/{wish['name']}"
            if repo in self.hub.repos:
                self._json({"error": "You already created this model repo", "url": f"{self.hub.endpoint}/{repo}"}, 409)
                return
            self.hub.repos[repo] = {}
            self._json({"url": f"{self.hub.endpoint}/{repo}", "private": wish.get("visibility") == "private"})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/(.+)", path):
            files = json.loads(data)["files"]
            modes = [
                {
                    "path": f["path"],
                    "uploadMode": "regular" if f["path"].endswith(TEXTS) else "lfs",
                    "shouldIgnore": False,
                }
                for f in files
            ]
            self._json({"files": modes})
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(data)["objects"]
            actions = [
                {**one, "actions": {"upload": {"href": f"{self.hub.cdn}/store/{one['oid']}"}}} for one in objects
            ]
            self._json({"transfer": "basic", "objects": actions})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", path):
            self._commit(match[1], match[2], [json.loads(line) for line in data.splitlines()])
        else:
            self._answer(404)

    def _commit(self, repo: str, branch: str, lines: list[dict[str, Any]]) -> None:
        found = self._files(repo, branch)
        files: dict[str, bytes | None] = dict(found[1]) if found else {}
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.hub.commit_messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
            elif line["key"] == "deletedFile":
                files.pop(value["path"])
        commit = self.hub.commit(repo, files, branch)
        self._json({"commitUrl": f"{self.hub.endpoint}/{repo}/commit/{commit}", "commitOid": commit})
