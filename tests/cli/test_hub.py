"""Models and patches of the Hub that cannot be had: one line, exit code 1, never the token."""

from __future__ import annotations

import json
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

# Invented, and built at run time so that no scanner takes it for a token that leaked.
TOKEN = "hf_" + "Invented" * 4

ANSWERS = [
    (401, {"X-Error-Code": "RepoNotFound"}, "was not found on the Hub", "hf auth login"),
    (403, {"X-Error-Code": "GatedRepo"}, "is gated", "ask for access"),
    (404, {"X-Error-Code": "RepoNotFound"}, "was not found on the Hub", "spelling"),
    (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, "token", "login"),
    (403, {}, "does not allow", "token that has the permission"),
]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """``hub(status, headers)``: the Hub client asks a server that answers so, with a token."""
    from huggingface_hub import constants

    servers = []

    def start(status, headers):
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format, *args):
                pass

            def do_GET(self):
                # As unkind as a server can be: it says the token back.
                said = {"error": f"no, {self.headers['authorization']}"}
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(json.dumps(said).encode())

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("status", "headers", "message", "hint"), ANSWERS)
@pytest.mark.parametrize("debug", [False, True])
def test_refused(
    status, headers, message, hint, debug, hub, cli, patch_file, tmp_path, monkeypatch
):
    hub(status, headers)
    if debug:
        monkeypatch.setenv("NEUROPATCH_DEBUG", "1")
    output = tmp_path / "out"
    wanted = {
        "patch ada/patch": ["inspect", "ada/patch"],
        "model ada/model": ["apply", "ada/model", patch_file, "-o", output],
    }
    for culprit, arguments in wanted.items():
        run = cli(*arguments)
        assert (run.code, run.out) == (1, "")
        lines = run.err.splitlines()
        assert ("Traceback" in run.err) == debug
        assert debug or len(lines) == 2
        assert lines[-2].startswith(f"error: {culprit} ")
        assert message in lines[-2]
        assert hint in lines[-1]
        assert "Invented" not in run.err
        assert not output.exists()


@pytest.mark.parametrize("offline", ["", "1"])
def test_no_network(offline, process, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(tmp_path),
        "HF_TOKEN": TOKEN,
        "HF_HUB_OFFLINE": offline,
        "NEUROPATCH_DEBUG": "1",
    }
    run = process("inspect", "ada/patch", env=environment)
    out, err = run.communicate(timeout=60)
    assert (run.returncode, out) == (1, "")
    error, hint = err.splitlines()[-2:]
    assert error.startswith("error: patch ada/patch (looked up on the Hub")
    reason = "offline mode is on" if offline else "no connection to the Hub (ConnectError)"
    assert reason in error
    assert "use a local copy" in hint
    assert "Invented" not in err
