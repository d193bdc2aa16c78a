"""Certificates and keys: an authority of the federation's own, the server's certificate, a key pair for every site.

Sites trust this authority and no other, so nobody else can speak for the server; the server knows sites by their keys.
Elliptic curves (P-384), as Flower reads them. Private parts are readable by their owner alone.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedbraid.deployment.owning import owner_alone
from fedbraid.errors import RunError, UserError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

AUTHORITY, AUTHORITY_KEY, CERTIFICATE, KEY = "ca.crt", "ca.key", "server.crt", "server.key"
YEARS = {"authority": 10, "server": 2}
"""How long certificates hold. `make_certificates` renews the server's."""


@owner_alone()
def make_certificates(folder: Path, hosts: Sequence[str]) -> None:
    """The authority, where there is none yet, and a certificate for the server under these names and addresses."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.x509.oid import ExtendedKeyUsageOID

    folder.mkdir(parents=True, exist_ok=True)
    authority, key = _authority(folder)
    own = _new_key()
    names = sorted({*hosts, "localhost", "127.0.0.1"})
    certificate = (
        _certificate(names[0], authority.subject, own.public_key(), YEARS["server"])
        .add_extension(x509.SubjectAlternativeName([_name(host) for host in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()),
            critical=False,
        )
        .sign(key, hashes.SHA384())
    )
    write_private(folder / KEY, _pem(own))
    (folder / CERTIFICATE).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


@owner_alone()
def make_node_key(private: Path, public: Path) -> None:
    """A new key pair of a site, as OpenSSH writes keys."""
    from cryptography.hazmat.primitives import serialization

    key = _new_key()
    form = serialization.PrivateFormat.OpenSSH
    text = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    write_private(private, text)
    shown = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    public.parent.mkdir(parents=True, exist_ok=True)
    public.write_bytes(shown + b"\n")


def write_private(path: Path, content: bytes) -> None:
    """Writes a new file that its owner alone can read, from its first moment on."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from error


def check_private(path: Path) -> None:
    """`UserError` where others than its owner can read a secret."""
    if path.stat().st_mode & 0o077:
        raise UserError(f"{path} is a secret that others can read; run: chmod 600 {path}")


def _authority(folder: Path) -> tuple[x509.Certificate, EllipticCurvePrivateKey]:
    """The authority of the folder, made where there is none."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    if (folder / AUTHORITY_KEY).is_file():
        held = serialization.load_pem_private_key((folder / AUTHORITY_KEY).read_bytes(), None)
        if not isinstance(held, ec.EllipticCurvePrivateKey):
            raise UserError(f"{folder / AUTHORITY_KEY} is no key on an elliptic curve; restore it")
        return x509.load_pem_x509_certificate((folder / AUTHORITY).read_bytes()), held
    key = _new_key()
    name = _subject("fedbraid federation")
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    certificate = (
        _certificate("fedbraid federation", name, key.public_key(), YEARS["authority"])
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    write_private(folder / AUTHORITY_KEY, _pem(key))
    (folder / AUTHORITY).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return certificate, key


def _certificate(subject: str, issuer: x509.Name, key: EllipticCurvePublicKey, years: int) -> x509.CertificateBuilder:
    from cryptography import x509

    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(_subject(subject))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=365 * years))
    )


def _subject(text: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _name(host: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _new_key() -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP384R1())


def _pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
