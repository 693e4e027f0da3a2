"""The certificate authority of one cluster; every client and server of the cluster has a certificate of it."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

#: How far a guest's clock may be behind before a new certificate is not yet valid for it.
_BEFORE = datetime.timedelta(minutes=5)
_LIFETIME = datetime.timedelta(days=2)


@dataclass(frozen=True, kw_only=True)
class ClientIdentity:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """Issues certificates for servers and clients; its key is never written to a file."""

    def __init__(self, name: str = "lifsea-testbed") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _dated(self._name, self._name, self._key.public_key(), _LIFETIME).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True)  # fmt: skip
        self.certificate = _pem(builder.sign(self._key, hashes.SHA256()))

    def issue(self, name: str, *, group: str = "", addresses: Sequence[str] = (),
              lifetime: datetime.timedelta = _LIFETIME) -> ClientIdentity:
        """Returns an identity for a client and, with `addresses` (IP), for a server.

        Kubernetes reads `name` as the user and `group` as a group (documentation, "X509 client certificates").
        A negative lifetime makes a certificate that has expired.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group)] if group else []
        subject = x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if addresses else [])]
        builder = _dated(subject, self._name, key.public_key(), lifetime)
        builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        if addresses:
            names = [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return ClientIdentity(certificate=_pem(builder.sign(self._key, hashes.SHA256())), key=private_key(key))


def expiry(certificate: bytes) -> datetime.datetime:
    """Returns when a certificate (PEM) expires.

    Raises:
        ValueError: it is not a certificate.
    """
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc


def private_key(key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    """Returns that key, or a new one, as PEM."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL,
                             serialization.NoEncryption())  # fmt: skip


def _dated(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey,
           lifetime: datetime.timedelta) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    start = min(now, now + lifetime) - _BEFORE
    return (x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
            .serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(now + lifetime))


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
