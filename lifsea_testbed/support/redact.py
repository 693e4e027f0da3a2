"""Redaction: secrets are replaced in every text that is stored or shown."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

MASK = "[masked]"
_NAMES = (r"client-key-data|(?:id-|refresh-|access-|bearer-)?token|token[_-]?secret|password|passwd|passphrase|secret"
          r"|(?:access[_-]?)?key[_-]?secret|security[_-]?token|api[_-]?key|private[_-]?key")  # fmt: skip
#: Words and a pattern: each line that matches the pattern contains one of the words (in lower case), and most lines
#: contain none. Group 1 is the text before the secret, which is kept.
_SECRETS = tuple((words.split(), re.compile(pattern, re.IGNORECASE)) for words, pattern in (
    ("metadata-token", r"(x-aliyun-ecs-metadata-token[\"']?\s*[:=]\s*[\"']?)[^\s\"']+"),
    ("authorization", r"(authorization[\"']?\s*[:=]\s*[\"']?(?:bearer|basic)\s+)[^\s\"']+"),
    ("key token pass secret",
     rf"(?<![\w-])((?:{_NAMES})[\"']?\s*[:=]\s*[\"']?)(?!{re.escape(MASK)})[^\s\"',;}}]+"),
    ("--token --password --secret", r"(--(?:token|password|secret)[= ])\S+"),
    # Password hashes, as in shadow(5) and crypt(5).
    ("$", r"()\$(?:1|2[abxy]?|5|6|7|y|gy|sha1|md5|argon2\w*)\$[^\s:\"']{8,}"),
    # A JSON Web Token; a bootstrap token of kubeadm; the identifier of an Alibaba Cloud access key. Of the first, what
    # stands before a dot is read once only, wherever in it the token begins.
    ("eyj", r"(?<![\w-])((?:(?!(?<!\w)eyJ)[\w-])*+)eyJ[\w-]{8,}+\.[\w-]{8,}+\.[\w-]*+"),
    (".", r"()\b[a-z0-9]{6}\.[a-z0-9]{16}\b"),
    ("ltai", r"()\bLTAI[A-Za-z0-9]{12,}\b"),
    # The base64 of a PEM file other than a certificate.
    ("ls0tls1crudjti", r"()LS0tLS1CRUdJTi(?!BDRVJUSUZJ)[A-Za-z0-9+/=]{16,}"),
))  # fmt: skip
_KEY_BEGINS = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----")
_KEY_ENDS = re.compile(r"-----END [A-Z0-9 ]*PRIVATE KEY-----")
#: The longest private key: 16384 bits of RSA are 200 lines. A key without an end hides no more lines than this.
_KEY_LINES = 256
#: Shorter secrets would match ordinary text.
_SHORTEST = 8


class Redactor:
    """Redacts a text line by line; it keeps track of private keys, which span several lines.

    `secrets` returns known secrets: tokens issued by the metadata service, lines of user-data.
    """

    def __init__(self, secrets: Callable[[], Iterable[str]] = lambda: ()) -> None:
        self._secrets = secrets
        self._left = 0

    def line(self, line: str) -> str:
        """Returns the next line without its secrets."""
        shown, position = [], 0
        if self._left:
            end = _KEY_ENDS.search(line)
            self._left = 0 if end else self._left - 1
            if end is None:
                return MASK
            shown, position = [MASK], end.end()
        while begin := _KEY_BEGINS.search(line, position):
            shown += [self._plain(line[position:begin.start()]), MASK]
            end = _KEY_ENDS.search(line, begin.end())
            if end is None:
                self._left = _KEY_LINES
                return "".join(shown)
            position = end.end()
        return "".join([*shown, self._plain(line[position:])])

    def unfinished(self, line: str) -> str:
        """Returns the beginning of the next line without its secrets; `line` will receive the complete line later."""
        return MASK if self._left and line else self.text(line)

    def text(self, text: str) -> str:
        """Returns a complete text without its secrets; the state of the stream of lines is not changed."""
        other = Redactor(self._secrets)
        return "\n".join(map(other.line, text.split("\n")))

    def stream(self) -> Redactor:
        """Returns a redactor of the same secrets for another stream of lines."""
        return Redactor(self._secrets)

    def _plain(self, line: str) -> str:
        for secret in self._secrets():
            if len(secret) >= _SHORTEST:
                line = line.replace(secret, MASK)
        lower = line.lower()
        for words, pattern in _SECRETS:
            if any(word in lower for word in words):
                line = pattern.sub(rf"\1{MASK}", line)
        return line


def redact(text: str) -> str:
    """Returns the text without keys, tokens and password hashes."""
    return Redactor().text(text)
