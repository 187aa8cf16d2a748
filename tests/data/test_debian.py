import gzip
import io
import lzma
import subprocess
import tarfile

import pytest
import zstandard

from pagnol_jax.data import debian
from pagnol_jax.data.markup import html_paragraphs, roff_paragraphs
from pagnol_jax.errors import UserError

PAGE = r""".\" comment
.TH LS 1
.SH NOM
ls \- Afficher le contenu de \fIrépertoires\fP
.SH "DESCRIPTION LONGUE"
Texte sur
deux lignes, l\(aqoption \fB\-\-all\fP\ ;
« \(Fo \[u00E9] » \e fin.
.PP
Voir
.BR passwd (5)
et
.B gras seul
.nf
int main(void);
.fi
.IP \(bu 2
un point
.TP
\fB\-a\fP
toutes les entrées
.TS
a b
.TE
"""

PROSE = "Une phrase française assez longue pour être gardée comme un paragraphe entier, {}."
HTML = f"""<html><head><title>titre</title></head><body><nav><p>menu</p></nav><h1>Chapitre&nbsp;1</h1>
<p>{PROSE.format(1)} <a href="x">lien</a></p><ul><li><a href="a">seulement un lien</a></li></ul>
<pre>code</pre><p>{PROSE.format(2)}<br>{PROSE.format(3)}</p><p>{PROSE.format(4)}</p><script>var a;</script>
</body></html>"""


def test_roff():
    assert roff_paragraphs(PAGE) == [
        "NOM",
        "ls - Afficher le contenu de répertoires",
        "DESCRIPTION LONGUE",
        "Texte sur deux lignes, l'option --all\u00a0; « « é » \\ fin.",
        "Voir passwd(5) et gras seul",
        "• un point",
        "-a toutes les entrées",
    ]


def test_keys_are_given_once():
    keys = '<span hidden="true" class="MAC"><b>Cmd</b> <span>x</span></span><span hidden="true">Ctrl</span>'
    assert html_paragraphs(f"<p>Appuyez sur {keys}+<span>Maj</span>+X.</p>") == ["Appuyez sur Ctrl+Maj+X."]


def test_html():
    first, *rest = html_paragraphs(HTML)
    assert first == "Chapitre\u00a01"
    assert rest == [PROSE.format(1) + " lien", PROSE.format(2), PROSE.format(3), PROSE.format(4)]


def fake_package(path, files, compress, suffix):
    tar_bytes = io.BytesIO()
    with tarfile.open(fileobj=tar_bytes, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    archive = b"!<arch>\n"
    for name, data in (
        ("debian-binary", b"2.0\n"),
        ("odd", b"x"),
        (f"data.tar{suffix}", compress(tar_bytes.getvalue())),
    ):
        archive += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
        )
    path.write_bytes(archive)


@pytest.fixture
def fake_apt(monkeypatch, tmp_path):
    """apt-get download that writes small packages, of either compression, into the working folder."""
    monkeypatch.setenv("PAGNOL_CACHE", str(tmp_path / "cache"))
    calls = []

    def run(command, cwd, **_):
        package = command[2]
        calls.append(package)
        kind = (zstandard.ZstdCompressor().compress, ".zst") if "html" in package else (lzma.compress, ".xz")
        files = {
            "./usr/share/doc/x/a.html": HTML.encode(),
            "./usr/share/doc/x/b.html": HTML.replace("assez longue", package).encode(),
            "./usr/share/man/fr/man1/ls.1.gz": gzip.compress(PAGE.encode()),
        }
        fake_package(cwd / f"{package}_1_all.deb", files, *kind)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_debian_fr_is_fetched_once_and_repeats_nothing(fake_apt):
    corpus = debian.debian_fr()
    documents = [d for shard in corpus.shards() for d in corpus.read(shard)]
    corpus.shards()
    assert fake_apt == list(debian.PACKAGES)
    assert len(documents) == 1 + len(debian.PACKAGES)  # a.html once, b.html of each; the manual is too short
    paragraphs = [p for d in documents for p in d.text.split("\n") if len(p) >= debian.REPEATABLE]
    assert len(paragraphs) == len(set(paragraphs))
    assert corpus.fingerprint() == debian.debian_fr().fingerprint()


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (FileNotFoundError(), "this machine has no apt-get"),
        (subprocess.TimeoutExpired("apt-get", 1), "hangs"),
        (
            subprocess.CompletedProcess([], 100, "", "W: x\nE: Unable to locate package manpages-fr"),
            "Unable to locate",
        ),
    ],
)
def test_without_apt_one_line_says_what_to_pass(monkeypatch, tmp_path, failure, message):
    monkeypatch.setenv("PAGNOL_CACHE", str(tmp_path))

    def run(*_, **__):
        if isinstance(failure, Exception):
            raise failure
        return failure

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(UserError, match=message) as error:
        debian.debian_fr().shards()
    assert "--gin_file data/files.gin --gin.PATTERN" in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.jsonl"))
