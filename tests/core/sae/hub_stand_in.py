"""Load SAEs from a stand-in of the Hugging Face Hub: ``python hub_stand_in.py FOLDER``.

It is a program because huggingface_hub reads its endpoint from the environment when imported.
"""

import hashlib
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def serve(folder: Path) -> ThreadingHTTPServer:
    """The files of a folder as the repository user/repo, at revision main."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            repo, _, rest = self.path.partition("/resolve/")
            revision, _, name = rest.partition("/")
            path = folder / name
            if repo != "/user/repo":
                self.fail(404, "RepoNotFound")
            elif revision not in ("main", COMMIT):
                self.fail(404, "RevisionNotFound")
            elif not path.is_file():
                self.fail(404, "EntryNotFound")
            else:
                content = path.read_bytes()
                self.send_response(200)
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if body:
                    self.wfile.write(content)

        def fail(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def main(folder: Path) -> None:
    server = serve(folder)
    os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_address[1]}"
    from saekit_core.sae import SAE, SAENotFoundError, parse_spec, resolve_spec

    def message(release: str, sae_id: str, revision: str | None = None) -> str:
        try:
            SAE.from_pretrained(release, sae_id, revision=revision)
        except SAENotFoundError as error:
            return str(error)
        raise AssertionError(f"{release} {sae_id} was found")

    sae, cfg_dict, sparsity = SAE.from_pretrained("user/repo", "layer/3")
    assert (sae.cfg.d_sae, cfg_dict["d_in"], sparsity) == (40, 12, None)
    sae_id, path = resolve_spec(parse_spec("hf://user/repo/layer/3@main"), folder)
    assert sae_id == "user/repo/layer/3"
    assert COMMIT in str(path)
    assert "no file layer/4/cfg.json" in message("user/repo", "layer/4")
    assert "no such repository" in message("user/other", "layer/3")
    assert "no such revision" in message("user/repo", "layer/3", "v2")

    server.shutdown()
    server.server_close()
    again, _, _ = SAE.from_pretrained("user/repo", "layer/3")
    assert again.cfg == sae.cfg
    print("all held")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
