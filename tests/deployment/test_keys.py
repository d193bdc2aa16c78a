"""Certificates and keys: what they say, who can read them."""

from __future__ import annotations

import ipaddress
import stat
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="the extra 'secure' is not installed")

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedbraid.deployment.keys import check_private, make_certificates, make_node_key
from fedbraid.errors import UserError


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_the_servers_certificate_is_the_authoritys_and_names_its_address_and_loopback(tmp_path: Path) -> None:
    make_certificates(tmp_path, ["fed.example.org", "192.0.2.7"])
    authority, server = certificate(tmp_path / "ca.crt"), certificate(tmp_path / "server.crt")
    server.verify_directly_issued_by(authority)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {"fed.example.org", "localhost"}
    assert ipaddress.ip_address("192.0.2.7") in names.get_values_for_type(x509.IPAddress)
    assert ipaddress.ip_address("127.0.0.1") in names.get_values_for_type(x509.IPAddress)
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_new_server_certificate_is_of_the_same_authority(tmp_path: Path) -> None:
    make_certificates(tmp_path, ["a.example.org"])
    before, key = (tmp_path / "ca.crt").read_bytes(), (tmp_path / "server.key").read_bytes()
    make_certificates(tmp_path, ["b.example.org"])
    assert (tmp_path / "ca.crt").read_bytes() == before
    assert (tmp_path / "server.key").read_bytes() != key
    certificate(tmp_path / "server.crt").verify_directly_issued_by(certificate(tmp_path / "ca.crt"))


def test_a_node_key_is_a_pair_on_a_curve_that_flower_reads(tmp_path: Path) -> None:
    make_node_key(tmp_path / "node.key", tmp_path / "keys" / "north.pub")
    private = serialization.load_ssh_private_key((tmp_path / "node.key").read_bytes(), None)
    public = serialization.load_ssh_public_key((tmp_path / "keys" / "north.pub").read_bytes())
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert private.public_key().public_numbers() == public.public_numbers()
    assert private.curve.name == "secp384r1"


def test_secrets_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    make_certificates(tmp_path, ["127.0.0.1"])
    make_node_key(tmp_path / "node.key", tmp_path / "node.pub")
    for name in ("ca.key", "server.key", "node.key"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    (tmp_path / "node.key").chmod(0o644)
    with pytest.raises(UserError, match=r"chmod 600 .*node\.key"):
        check_private(tmp_path / "node.key")
