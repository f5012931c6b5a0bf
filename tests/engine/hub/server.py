"""A small server with the part of the hub's protocol that huggingface_hub uses."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import attrs


@attrs.define
class HubServer:
    """Repositories as {"owner/repo": {revision: commit}} and {commit: {file name: content}}.

    They may change while it serves. `requests` has "METHOD path" of every request, in order;
    `ranges` the Range headers of downloads.
    """

    endpoint: str = ""
    revisions: dict[str, dict[str, str]] = attrs.field(factory=dict)
    commits: dict[str, dict[str, bytes]] = attrs.field(factory=dict)
    requests: list[str] = attrs.field(factory=list)
    ranges: list[str | None] = attrs.field(factory=list)
    private: set[str] = attrs.field(factory=set)
    gated: set[str] = attrs.field(factory=set)
    token: str = "hf_right"
    spoiled: set[str] = attrs.field(factory=set)
    """Names of files that are delivered with one byte changed."""
    status: int = 0
    """Answer everything with this status, unless it is 0."""
    cut_after: list[int] = attrs.field(factory=list)
    """The next downloads break off after so many bytes, one each."""
    halfway: threading.Event = attrs.field(factory=threading.Event)
    """Set when half of a file was sent while `held` is set."""
    held: threading.Event | None = None
    """If given, downloads stop half way until it is set."""
    after_description: Callable[[], object] | None = None
    """Called after a repository was described, and before its files are requested."""

    def publish(
        self, repo: str, files: dict[str, bytes], revision: str = "main", commit: str | None = None
    ) -> str:
        """Give the repository a commit with these files, and let the revision name it."""
        if commit is None:
            described = repr(
                (repo, sorted((n, hashlib.sha1(c).digest()) for n, c in files.items()))
            )
            commit = hashlib.sha1(described.encode()).hexdigest()
        self.commits[commit] = files
        self.revisions.setdefault(repo, {}).update({revision: commit, commit: commit})
        return commit


@contextmanager
def serve_hub() -> Iterator[HubServer]:
    hub = HubServer()

    class Handler(_Handler):
        server_state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        if hub.held is not None:
            hub.held.set()
        server.shutdown()
        server.server_close()
        thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    server_state: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.server_state
        path = unquote(urlsplit(self.path).path)
        hub.requests.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if hub.status:
            return self._refuse(hub.status, "")
        repo = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        revision = parts[5] if parts[0] == "api" and len(parts) > 5 else "main"
        if parts[0] != "api":
            revision = parts[3]
        sent = self.headers.get("Authorization")
        if sent is not None and sent != f"Bearer {hub.token}":
            return self._refuse(401, "", "Invalid credentials in Authorization header")
        if repo not in hub.revisions or (repo in hub.private and sent is None):
            return self._refuse(401 if sent is None else 404, "RepoNotFound")
        commit = hub.revisions[repo].get(revision)
        if commit is None:
            return self._refuse(404, "RevisionNotFound")
        if parts[0] == "api":
            return self._describe(repo, commit)
        if repo in hub.gated:
            return self._refuse(403, "GatedRepo")
        name = "/".join(parts[4:])
        content = hub.commits[commit].get(name)
        if content is None:
            return self._refuse(404, "EntryNotFound", commit=commit)
        return self._download(commit, name, content)

    def _describe(self, repo: str, commit: str) -> None:
        files = self.server_state.commits[commit]
        body = json.dumps(
            {
                "id": repo,
                "sha": commit,
                "siblings": [
                    {
                        "rfilename": name,
                        "size": len(content),
                        "blobId": hashlib.sha1(content).hexdigest(),
                        "lfs": {
                            "sha256": hashlib.sha256(content).hexdigest(),
                            "size": len(content),
                            "pointerSize": 130,
                        },
                    }
                    for name, content in files.items()
                ],
            }
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server_state.after_description is not None:
            self.server_state.after_description()
        self.wfile.write(body)

    def _download(self, commit: str, name: str, content: bytes) -> None:
        hub = self.server_state
        digest = hashlib.sha256(content).hexdigest()
        if name in hub.spoiled:
            content = content[:-1] + bytes([content[-1] ^ 1])
        span = self.headers.get("Range")
        start = int(span.removeprefix("bytes=").split("-")[0]) if span else 0
        self.send_response(206 if span else 200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{digest}"')
        self.send_header("X-Linked-Etag", f'"{digest}"')
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("Content-Length", str(len(content) - start))
        if span:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        hub.ranges.append(span)
        end = len(content)
        if hub.cut_after:
            end = min(end, start + hub.cut_after.pop(0))
        if hub.held is not None:
            middle = (start + end) // 2
            self.wfile.write(content[start:middle])
            self.wfile.flush()
            hub.halfway.set()
            hub.held.wait(300)
            start = middle
        with contextlib.suppress(OSError):  # the client may have been killed
            self.wfile.write(content[start:end])
        if end < len(content):
            self.close_connection = True

    def _refuse(self, status: int, code: str, message: str = "", commit: str = "") -> None:
        self.send_response(status)
        for name, value in (
            ("X-Error-Code", code),
            ("X-Error-Message", message),
            ("X-Repo-Commit", commit),
        ):
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()
