"""A server that is asked as S3 is and answers what a test says, for what no real server can be made to do or to tell."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class HttpBucket(BaseHTTPRequestHandler):
    """A request: its methods are the test's, and end with `answer`."""

    def answer(self, body: bytes = b"") -> None:
        self.send_response(200)
        self.send_header("etag", '"e"')
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(bucket: type[HttpBucket]) -> Iterator[str]:
    """Give the address at which such requests are answered."""
    listening = ThreadingHTTPServer(("127.0.0.1", 0), bucket)
    serving = threading.Thread(target=listening.serve_forever)
    serving.start()
    yield f"http://127.0.0.1:{listening.server_port}"
    listening.shutdown()
    serving.join()
    listening.server_close()
