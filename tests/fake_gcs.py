"""A bucket of Cloud Storage on loopback: as much of its JSON API as gcsfs, google-cloud-storage and tensorstore speak.

https://cloud.google.com/storage/docs/json_api/v1 . Objects are kept in memory; every object's writes are counted.
"""

import base64
import collections
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit


class Object(NamedTuple):
    content: bytes
    generation: int


class Bucket:
    """Objects by name, of any bucket."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.uploads: dict[str, tuple[str, bytearray]] = {}
        self.reads: collections.Counter[str] = collections.Counter()
        self.lock = threading.RLock()
        self.generation = 1

    def put(self, name: str, content: bytes) -> dict[str, Any]:
        with self.lock:
            self.generation += 1
            self.objects[name] = Object(content, self.generation)
            return self.about(name)

    def about(self, name: str) -> dict[str, Any]:
        """The metadata of an object."""
        content, generation = self.objects[name]
        return {
            "kind": "storage#object",
            "name": name,
            "bucket": "bucket",
            "size": str(len(content)),
            "generation": str(generation),
            "metageneration": "1",
            "md5Hash": base64.b64encode(hashlib.md5(content).digest()).decode(),
            "updated": "2026-01-01T00:00:00.000Z",
            "timeCreated": "2026-01-01T00:00:00.000Z",
        }

    def list(self, query: dict[str, str]) -> dict[str, Any]:
        """Objects, and folders up to the delimiter, under a prefix."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        items, prefixes = [], set()
        for name in sorted(self.objects):
            if not name.startswith(prefix) or name < query.get("startOffset", ""):
                continue
            if "endOffset" in query and name >= query["endOffset"]:
                continue
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                prefixes.add(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                items.append(self.about(name))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def log_message(self, *_: object) -> None: ...

    def handle(self) -> None:
        """Clients that are killed leave in the midst of an answer."""
        with suppress(ConnectionError):
            super().handle()

    def answer(self, status: int, content: Any = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body)), "Content-Type": "application/json"} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def handle_one(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query, keep_blank_values=True).items()}
        body = self.body()
        path = re.sub(r"^/(download/|upload/)?(resumable/)?storage/v1", "", url.path)
        with self.bucket.lock:
            if "/rewriteTo/" in path or "/copyTo/" in path:
                return self.copy(path)
            match = re.fullmatch(r"/b/[^/]+(?:/o(?:/(.+))?)?", path)
            if not match or "/o" not in path:
                return self.answer(200, {"kind": "storage#bucket", "name": "bucket", "id": "bucket"})
            name = unquote(match[1] or "")
            if self.command in ("POST", "PUT"):
                return self.upload(query, body)
            if not name:
                return self.answer(200, self.bucket.list(query))
            return self.read(name, query) if self.command == "GET" else self.delete(name)

    do_GET = do_POST = do_PUT = do_DELETE = handle_one  # noqa: N815

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def read(self, name: str, query: dict[str, str]) -> None:
        found = self.bucket.objects.get(name)
        if found is None:
            return self.answer(404, {"error": {"code": 404, "message": "Not Found"}})
        if query.get("alt") != "media":
            return self.answer(200, self.bucket.about(name))
        self.bucket.reads[name] += 1
        if query.get("ifGenerationNotMatch") == str(found.generation):
            return self.answer(304)
        headers = {"x-goog-generation": str(found.generation), "Content-Type": "application/octet-stream"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            return self.answer(200, found.content, **headers)
        lo, size = int(wanted[1]), len(found.content)
        if lo >= size:
            return self.answer(416, **{"Content-Range": f"bytes */{size}"})
        part = found.content[lo : int(wanted[2] or size - 1) + 1]
        headers["Content-Range"] = f"bytes {lo}-{lo + len(part) - 1}/{size}"
        return self.answer(206, part, **headers)

    def delete(self, name: str) -> None:
        self.answer(204 if self.bucket.objects.pop(name, None) else 404)

    def copy(self, path: str) -> None:
        source, target = re.split(r"/(?:rewriteTo|copyTo)/b/[^/]+/o/", path)
        name = unquote(source.split("/o/", 1)[1])
        if name not in self.bucket.objects:
            return self.answer(404)
        about = self.bucket.put(unquote(target), self.bucket.objects[name].content)
        return self.answer(200, {"kind": "storage#rewriteResponse", "done": True, "resource": about})

    def upload(self, query: dict[str, str], body: bytes) -> None:
        name, kind = query.get("name", ""), query.get("uploadType")
        if "upload_id" in query:
            return self.resume(query["upload_id"], body)
        if kind == "multipart":
            boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])
            assert boundary is not None
            _, about, media, _ = body.split(b"--" + boundary[1].encode())
            name = json.loads(about.split(b"\n\n" if b"\r\n\r\n" not in about else b"\r\n\r\n", 1)[1])["name"]
            body = media.split(b"\r\n\r\n" if b"\r\n\r\n" in media else b"\n\n", 1)[1]
            body = body.removesuffix(b"\n").removesuffix(b"\r")
        elif kind == "resumable":
            name = name or json.loads(body)["name"]
            key = f"u{len(self.bucket.uploads)}"
            self.bucket.uploads[key] = name, bytearray()
            where = f"http://{self.headers['Host']}/upload/storage/v1/b/bucket/o?uploadType=resumable&upload_id={key}"
            return self.answer(200, **{"Location": where})
        before = self.bucket.objects.get(name)
        expected = query.get("ifGenerationMatch")
        if expected is not None and expected != str(before.generation if before else 0):
            return self.answer(412, {"error": {"code": 412, "message": "conditionNotMet"}})
        return self.answer(200, self.bucket.put(name, body))

    def resume(self, key: str, body: bytes) -> None:
        name, content = self.bucket.uploads[key]
        content += body
        if self.headers.get("Content-Range", "").endswith("/*"):
            return self.answer(308, **{"Range": f"bytes=0-{len(content) - 1}"})
        return self.answer(200, self.bucket.put(name, bytes(content)))


@contextmanager
def serving() -> Iterator[tuple[Bucket, dict[str, str]]]:
    """(bucket, the environment in which gs://bucket is it)."""
    bucket = Bucket()
    handler = type("BucketHandler", (Handler,), {"bucket": bucket})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    yield (
        bucket,
        {
            "STORAGE_EMULATOR_HOST": url,
            "TENSORSTORE_GCS_HTTP_URL": url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
            "NO_GCE_CHECK": "true",
        },
    )
    server.shutdown()
