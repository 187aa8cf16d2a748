"""Plain French paragraphs out of manual pages (roff) and HTML."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_BREAKS = {"PP", "P", "LP", "sp", "br", "TP", "TQ", "IP", "HP", "RS", "RE", "SH", "SS", "Sh", "Ss", "Pp"}
_FONTS = {"B", "I", "SM", "SB"}  # arguments are words
_ALTERNATE = {"BR", "RB", "BI", "IB", "IR", "RI"}  # arguments are glued
_SKIPPED = {"nf": "fi", "EX": "EE", "TS": "TE", "de": ".", "ig": "."}  # code, tables, macro definitions
_HEADINGS = {"SH", "SS"}

_GLYPHS = {
    "aq": "'", "dq": '"', "em": "—", "en": "–", "bu": "•", "co": "©", "rs": "\\", "cq": "’", "oq": "‘",
    "lq": "“", "rq": "”", "Fo": "«", "Fc": "»", "ti": "~", "ha": "^", "ga": "`", "->": "→", "<-": "←",
    "mc": "µ", "de": "°", "mu": "×", "+-": "±", "<=": "≤", ">=": "≥", "hy": "-", "or": "|", "at": "@",
}  # fmt: skip
_ESCAPE = re.compile(
    r"\\(?:f(?:\[[^]]*\]|\(..|.)|s(?:\[[^]]*\]|[-+]?\d+)|m\[[^]]*\]|[hvwk]'[^']*'|\*(?:\[[^]]*\]|\(..|.)"
    r"|\[(?P<name>[^]]*)\]|\((?P<two>..)|(?P<one>.))"
)
_ONE = {"-": "-", "e": "\\", "~": "\u00a0", " ": "\u00a0", "0": " ", "'": "´", "`": "`", "t": " "}


def roff_paragraphs(source: str) -> list[str]:
    """The prose of a manual page, one string a paragraph; code, tables and comments are left out."""
    paragraphs: list[list[str]] = [[]]
    skip_until = ""
    for line in source.split("\n"):
        macro, rest = _macro(line)
        if skip_until:
            skip_until = "" if macro == skip_until else skip_until
        elif macro in _SKIPPED:
            skip_until = _SKIPPED[macro]
            paragraphs.append([])
        elif macro in _HEADINGS:
            paragraphs += [[_unescape(" ".join(_arguments(rest)))], []]
        elif macro in _BREAKS or (macro is None and not line.strip()):
            tag = _arguments(rest)[:1] if macro == "IP" else []
            paragraphs.append([_unescape(tag[0])] if tag else [])
        elif macro in _FONTS or macro in _ALTERNATE:
            paragraphs[-1].append(_unescape(("" if macro in _ALTERNATE else " ").join(_arguments(rest))))
        elif macro is None:
            paragraphs[-1].append(_unescape(line))
    joined = (_squeeze(" ".join(paragraph)) for paragraph in paragraphs)
    return [paragraph for paragraph in joined if len(paragraph) > 1]


def _macro(line: str) -> tuple[str | None, str]:
    """The macro's name and the rest of the line; no name for a line of text."""
    if not line or line[0] not in ".'":
        return None, line
    if line.startswith(".."):
        return ".", ""
    match = re.match(r"[.']\s*(\w*)\s*(.*)", line)
    return (match[1], match[2]) if match else ("", "")


def _arguments(rest: str) -> list[str]:
    found: list[tuple[str, str]] = re.findall(r'"((?:[^"]|"")*)"|((?:\\.|\S)+)', rest)
    return [quoted or bare for quoted, bare in found]


def _unescape(text: str) -> str:
    text = re.sub(r'\\["#].*', "", text)
    return _ESCAPE.sub(_glyph, text)


def _glyph(match: re.Match[str]) -> str:
    if match["one"]:
        return _ONE.get(match["one"], "")
    name = match["name"] or match["two"] or ""
    if re.fullmatch(r"u[0-9A-F]{4,6}", name):
        return chr(int(name[1:], 16))
    return _GLYPHS.get(name, "")


def _squeeze(text: str) -> str:
    """Runs of spaces to one; no-break spaces stay (French punctuation uses them)."""
    return re.sub(r"[ \t\n]+", " ", text).strip()


_BLOCKS = frozenset(
    [
        "p",
        "li",
        "dt",
        "dd",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "div",
        "td",
        "th",
        "tr",
        "table",
        "ul",
        "ol",
        "dl",
        "section",
        "article",
        "blockquote",
        "br",
        "body",
        "caption",
        "figure",
    ]
)
_DROPPED = frozenset(["script", "style", "head", "nav", "header", "footer", "aside", "pre", "form", "button", "title"])


class _Prose(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.paragraphs: list[str] = []
        self._text: list[str] = []
        self._linked = 0  # characters of the paragraph that stand inside links
        self._inside_link = self._inside_dropped = 0
        self._mac_spans = 0  # LibreOffice gives keys twice, for macOS and for the others: the others are kept

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside_dropped += tag in _DROPPED
        if tag == "span" and (self._mac_spans or ("class", "MAC") in attrs):
            self._mac_spans += 1
        self._inside_link += tag == "a" and any(name == "href" for name, _ in attrs)
        if tag in _BLOCKS:
            self.flush()

    def handle_endtag(self, tag: str) -> None:
        self._inside_dropped = max(0, self._inside_dropped - (tag in _DROPPED))
        if tag == "span" and self._mac_spans:
            self._mac_spans -= 1
        if tag == "a":
            self._inside_link = 0
        if tag in _BLOCKS:
            self.flush()

    def handle_data(self, data: str) -> None:
        if not self._inside_dropped and not self._mac_spans:
            self._text.append(data)
            self._linked += len(data.strip()) if self._inside_link else 0

    def flush(self) -> None:
        """Ends the paragraph; one that is mostly links is navigation, and dropped."""
        paragraph = _squeeze("".join(self._text)).replace("¶", "")
        if len(paragraph) > 1 and self._linked <= 0.6 * len(paragraph):
            self.paragraphs.append(paragraph)
        self._text, self._linked = [], 0


def html_paragraphs(source: str) -> list[str]:
    """The prose of a page, one string a block; scripts, code, navigation and lists of links are left out."""
    parser = _Prose()
    parser.feed(source)
    parser.close()
    parser.flush()
    return parser.paragraphs
