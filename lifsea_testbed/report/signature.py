"""Signs gate.json in minisign's format with a key file, and verifies it without a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from lifsea_testbed.errors import CallerError
from lifsea_testbed.report import gate
from lifsea_testbed.report.document import Document

T = TypeVar("T")
SUFFIX = ".minisig"
#: The environment variable with the password of an encrypted key.
PASSWORD = "LIFSEA_TESTBED_KEY_PASSWORD"


class Signer:
    """A secret key that has been decrypted."""

    def __init__(self, path: Path, password: str) -> None:
        """Opens a key file of minisign.

        Raises:
            CallerError: the file is not a key, its password is wrong, or py-minisign is not installed.
        """
        minisign = _library()
        self._key = _reading(path, minisign.SecretKey.from_file)
        try:
            if self._key.is_encrypted():
                self._key.decrypt(password)
        except ValueError as error:
            raise CallerError(f"{path}: {error}", hint=f"set its password in ${PASSWORD}") from None

    def sign(self, path: Path, document: Document) -> Path:
        """Signs the document, and returns the file with the signature, beside that of the document."""
        comment = f"{gate.headline(document)} sha256:{document.image.sha256} profile:{document.profile}"
        signed = self._key.sign(document.text().encode(), untrusted_comment="gate.json of lifsea_testbed",
                                trusted_comment=comment)  # fmt: skip
        signature = path.with_name(path.name + SUFFIX)
        signature.write_bytes(bytes(signed) + b"\n")
        return signature


def verify(path: Path, content: bytes, public_key: Path) -> str:
    """Verifies the content of the file by the signature beside it and that key, and returns its trusted comment.

    The content is that which the caller read, and goes on to use: the file itself is not read, as it may change.

    Raises:
        CallerError: there is no signature, or it does not match the content or the key.
    """
    minisign = _library()
    key = _reading(public_key, minisign.PublicKey.from_file)
    beside = path.with_name(path.name + SUFFIX)
    signature = _reading(beside, minisign.Signature.from_file)
    try:
        key.verify(content, signature)
    except ValueError as error:
        raise CallerError(f"{path}: not signed by {public_key}: {error}", hint="do not trust this verdict") from None
    return str(signature.trusted_comment)


def _reading(path: Path, read: Callable[[Path], T]) -> T:
    try:
        return read(path)
    except OSError as error:
        raise CallerError(f"{path}: cannot be read: {error.strerror}", hint="check the path") from None
    except ValueError as error:
        raise CallerError(f"{path}: not a file of minisign: {error}", hint="minisign -G makes keys") from None


def _library() -> Any:
    try:
        import minisign
    except ImportError:
        hint = "pip install 'lifsea-testbed[sign]'"
        raise CallerError("signatures need py-minisign, which is not installed", hint=hint) from None
    return minisign
