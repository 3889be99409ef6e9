"""A server in this process that answers as an object store does, for who knows the key."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

KEY, SECRET = "AKIAOFTHISTEST", "never/shown"
BEGIN = '<?xml version="1.0" encoding="UTF-8"?>\n'


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve the folders in a folder as buckets -> the address of the store."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            if f"Credential={KEY}/" not in self.headers.get("Authorization", ""):
                code = f"<Error><Code>AccessDenied</Code><Message>{SECRET}</Message></Error>"
                return self.answer(403, (BEGIN + code).encode())
            url = urlsplit(self.path)
            place = folder / unquote(url.path).strip("/")
            asked = {name: values[0] for name, values in parse_qs(url.query).items()}
            if "list-type" in asked:
                return self.answer(200, listing(place, asked.get("prefix", "")).encode())
            if self.command == "HEAD" and place.is_dir() and place.parent == folder:
                return self.answer(200, b"")  # a bucket
            if not place.is_file():
                return self.answer(404, f"{BEGIN}<Error><Code>NoSuchKey</Code></Error>".encode())
            content = place.read_bytes()
            span = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
            if span[0]:
                content = content[int(span[0]) : int(span[2]) + 1 if span[2] else None]
            return self.answer(206 if span[0] else 200, content)

        def answer(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Last-Modified", "Mon, 30 Nov 2026 00:00:00 GMT")
            self.send_header("ETag", '"0"')
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def listing(bucket: Path, prefix: str) -> str:
    """All keys of a bucket that begin so."""
    files = sorted(path for path in bucket.rglob("*") if path.is_file())
    sizes = {path.relative_to(bucket).as_posix(): path.stat().st_size for path in files}
    rows = [
        f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size>"
        "<LastModified>2026-11-30T00:00:00.000Z</LastModified></Contents>"
        for key, size in sizes.items()
        if key.startswith(prefix)
    ]
    return (
        f"{BEGIN}<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>{len(rows)}</KeyCount>"
        f"{''.join(rows)}</ListBucketResult>"
    )
