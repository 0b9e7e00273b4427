"""Key pairs for signed manifests."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from components.model_registry.signing import Keys

_PEM = serialization.Encoding.PEM
_PKCS8 = serialization.PrivateFormat.PKCS8


def write_private(
    file: Path,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
    encryption: serialization.KeySerializationEncryption | None = None,
) -> Path:
    """Write a private key as PEM, without encryption unless one is given."""
    file.write_bytes(key.private_bytes(_PEM, _PKCS8, encryption or serialization.NoEncryption()))
    return file


def write_keys(folder: Path, name: str) -> Keys:
    """Write a new key pair to NAME.pem and NAME.pub in a folder."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = folder / f"{name}.pub"
    subject = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(_PEM, subject))
    return Keys(write_private(folder / f"{name}.pem", key), public)
