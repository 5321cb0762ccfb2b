"""A classifier behind HTTP, as somebody else's service would be: JSON in, JSON out, on this machine only.

Run:   python docs/examples/black_box_server.py --port 8000
then:  fimtheory blackbox http://127.0.0.1:8000/predict --data digits:test --n 20
"""

from __future__ import annotations

import argparse
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch

import fimtheory as ft
from fimtheory import zoo

MOST_BYTES = 64 * 2**20


class Predict(BaseHTTPRequestHandler):
    """Answers POST /predict {"inputs": [...]} with {"outputs": [[...], ...]}, the probabilities of each input."""

    model = zoo.load("digits_mlp")

    def do_POST(self) -> None:
        """Answer one batch."""
        size = int(self.headers.get("Content-Length", 0))
        if self.path != "/predict" or not 0 < size <= MOST_BYTES:
            self.send_error(404 if self.path != "/predict" else 413)
            return
        try:
            inputs = torch.tensor(json.loads(self.rfile.read(size))["inputs"], dtype=torch.float32)
            with torch.no_grad():
                outputs = self.model(inputs).softmax(1).tolist()
        except (ValueError, KeyError, TypeError, ft.FimTheoryError) as error:
            self.send_error(400, str(error).splitlines()[0][:200])
            return
        body = json.dumps({"outputs": outputs}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def server(port: int) -> ThreadingHTTPServer:
    """Return a server on a port of the loopback interface; 0 takes a free one."""
    return ThreadingHTTPServer(("127.0.0.1", port), Predict)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve a classifier over HTTP.")
    parser.add_argument("--port", type=int, default=8000)
    serving = server(parser.parse_args().port)
    print(f"http://127.0.0.1:{serving.server_port}/predict", flush=True)
    serving.serve_forever()
