"""`debian_fr`: the French documentation that Debian and Ubuntu ship, the corpus that needs no account.

Manual pages, the Debian and the developers' reference, the LibreOffice help: 8 MB of packages, fetched with
`apt-get download` (no root), reduced to prose and kept as JSON Lines in the user's cache.
Licences: GPL (manual pages, Debian manuals) and MPL 2.0 / LGPL (LibreOffice).
"""

from __future__ import annotations

import gzip
import io
import json
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from pagnol_jax.data.corpora import Corpus, jsonl
from pagnol_jax.data.disk import cache_root
from pagnol_jax.data.markup import html_paragraphs, roff_paragraphs
from pagnol_jax.data.readers import Document, Shard
from pagnol_jax.errors import UserError

PACKAGES = ("manpages-fr", "debian-reference-fr", "developers-reference-fr", "libreoffice-help-fr")
FEWEST_CHARACTERS = 200  # a shorter page is no document
REPEATABLE = 60  # characters: a longer paragraph is kept once in the whole corpus
INSTEAD = "pass your own text instead, e.g. --gin_file data/files.gin --gin.PATTERN=\"'texts/*.jsonl'\""


def debian_fr() -> Corpus:
    """Debian's French documentation, fetched when first read; raises UserError where apt cannot."""
    return Corpus("debian_fr()", _shards, _read, _fingerprint)


def _files() -> Corpus:
    return jsonl(str(cache_root() / "debian_fr" / "*.jsonl"))


def _shards() -> list[Shard]:
    folder = cache_root() / "debian_fr"
    if not all((folder / f"{package}.jsonl").exists() for package in PACKAGES):
        _fetch(folder)
    return _files().shards()


def _read(shard: Shard) -> Iterator[Document]:
    return _files().read(shard)


def _fingerprint() -> str:
    return _files().fingerprint()


def _fetch(folder: Path) -> None:
    """Downloads the packages and writes one JSON Lines file for each, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        seen: set[str] = set()
        for package in PACKAGES:
            archive = _download(package, Path(temporary))
            unfinished = Path(temporary) / f"{package}.jsonl"
            with open(unfinished, "w", encoding="utf-8") as file:
                for name, paragraphs in _pages(archive):
                    if text := _fresh_text(paragraphs, seen):
                        record = {"text": text, "id": f"{package}/{name}"}
                        file.write(json.dumps(record, ensure_ascii=False) + "\n")
            unfinished.replace(folder / unfinished.name)


def _download(package: str, folder: Path) -> Path:
    """The package's archive; package lists of our own are fetched where the system has none that serve."""
    result = _apt("download", package, folder=folder)
    if result.returncode:
        (folder / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        lists = ("-o", f"Dir::State::Lists={folder / 'lists'}", "-o", f"Dir::Cache={folder}")
        if not any((folder / "lists").glob("*_Packages*")):
            _apt("update", *lists, folder=folder)
        result = _apt("download", package, *lists, folder=folder)
    found = sorted(folder.glob(f"{package}_*.deb"))
    if result.returncode or not found:
        errors = [line for line in result.stderr.splitlines() if line.startswith("E:")] or ["it failed"]
        raise UserError(f"debian_fr: apt-get download {package}: {errors[0]}: is there a network? Or {INSTEAD}")
    return found[0]


def _apt(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = ["apt-get", *arguments, "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=20"]
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    except FileNotFoundError:
        raise UserError(f"debian_fr: this machine has no apt-get: {INSTEAD}") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"debian_fr: apt-get {arguments[0]} hangs: {INSTEAD}") from None


def _pages(archive: Path) -> Iterator[tuple[str, list[str]]]:
    """(path, paragraphs) of each French page of a package, in order of path."""
    with tarfile.open(fileobj=io.BytesIO(_data_tar(archive))) as tar:
        for member in sorted(tar.getmembers(), key=lambda member: member.name):
            extract = next((kind for pattern, kind in _KINDS if re.search(pattern, member.name)), None)
            content = tar.extractfile(member) if extract and member.isfile() else None
            if extract and content:
                yield member.name.removeprefix("./usr/share/"), extract(content.read())


def _data_tar(archive: Path) -> bytes:
    """The `data.tar.*` member of a Debian package (an `ar` archive: 60-byte headers, even offsets)."""
    content = archive.read_bytes()
    at = 8  # after "!<arch>\n"
    while at + 60 <= len(content):
        name, size = content[at : at + 16].decode().strip(), int(content[at + 48 : at + 58])
        if name.startswith("data.tar"):
            data = content[at + 60 : at + 60 + size]
            return _unzstd(data) if ".zst" in name else data
        at += 60 + size + size % 2
    raise UserError(f"debian_fr: {archive.name} is no Debian package")


def _unzstd(content: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdDecompressor().stream_reader(content).read()


def _decoded(extract: Callable[[str], list[str]], content: bytes) -> list[str]:
    return extract(content.decode("utf-8", errors="replace"))


def _manual(content: bytes) -> list[str]:
    return _decoded(roff_paragraphs, gzip.decompress(content))


_KINDS: tuple[tuple[str, Callable[[bytes], list[str]]], ...] = (
    (r"/man/fr/man\d/.*\.gz$", _manual),
    (r"\.html$", partial(_decoded, html_paragraphs)),
)


def _fresh_text(paragraphs: list[str], seen: set[str]) -> str:
    """The page without the long paragraphs that another page already gave; empty if little is left."""
    kept = [p for p in dict.fromkeys(paragraphs) if len(p) < REPEATABLE or p not in seen]
    seen.update(kept)
    prose = sum(len(p) for p in kept if len(p) >= REPEATABLE)
    return "\n".join(kept) if prose >= FEWEST_CHARACTERS else ""
