"""Signatures of pushed versions, in the format of OpenSSF's model signing (a Sigstore bundle).

A version is signed when it is whole: every file and its manifest, which holds its number, so that a
signature fits no other version. It guards the folder that servers read: without the private key,
nobody who can write there can change a version, add to it, or put an older one in its place. What
happened to the model before the push is not covered.

`model_signing verify key --signature DIR/model.sig --public_key KEY --ignore-paths DIR/model.sig
DIR` checks the same by hand, save for the number.
"""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from components import storage
from components.errors import ConfigError

if TYPE_CHECKING:
    from model_signing import hashing

SIGNATURE = "model.sig"
_LARGEST = 16 << 20  # bytes of a signature: some hundred for each file of the model


class SignatureError(ConfigError):
    """A version that is not signed with the right key, or was changed since."""


@dataclasses.dataclass(frozen=True)
class Keys:
    """The files of an elliptic key pair in PEM, the private one without a passphrase."""

    private: Path
    public: Path

    def sign(self, folder: Path) -> None:
        """Sign a version that is about to appear, and check it as servers will.

        Raises:
            ConfigError: a key cannot be used, or the two are not a pair.
        """
        from model_signing import signing

        try:
            config = signing.Config().use_elliptic_key_signer(private_key=self.private)
            config.set_hashing_config(_hashing()).sign(folder, folder / SIGNATURE)
        # The library raises errors of many kinds for keys of other kinds.
        except Exception as error:
            raise ConfigError(
                f"push.signing.private_key: {self.private} cannot sign: {error}; give an elliptic "
                "private key in PEM without a passphrase"
            ) from error
        try:
            verify(folder, self.public, "the version")
        except SignatureError as error:
            raise ConfigError(
                f"push.signing.public_key: servers would refuse the model: {error}; give the "
                f"public key of {self.private}"
            ) from error

    def have_signed(self, base: str, version: int) -> bool:
        """Whether a version that is there already is signed and untouched."""
        try:
            verify_version(base, version, self.public)
        except SignatureError:
            return False
        return True


def verify_version(base: str, version: int, public_key: Path) -> None:
    """Check a version below `base`, a path or a URI, where its number counts too.

    Raises:
        SignatureError: it must not be served.
    """
    from components.model_registry import versions  # which imports this module

    location = storage.join(base, str(version))
    with storage.local_copy(location) as folder:
        verify(folder, public_key, location)
    manifest = versions.read_manifest(base, version)
    signed = manifest.record.get("version") if manifest else None
    if signed != version:
        raise SignatureError(f"{location} was signed as version {signed}, not {version}")


def verify(folder: Path, public_key: Path, name: str) -> None:
    """Check that the holder of the private key signed just the files of a version.

    Args:
        folder: the version.
        public_key: elliptic, PEM.
        name: what to call the version.

    Raises:
        SignatureError: it must not be served.
    """
    from model_signing import verifying

    try:
        key = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except Exception as error:  # as above
        raise SignatureError(
            f"{public_key} is not an elliptic public key in PEM: {error}"
        ) from error
    signature = folder / SIGNATURE
    if not signature.is_file():
        raise SignatureError(f"{name} is not signed: it has no {SIGNATURE}")
    if signature.stat().st_size > _LARGEST:
        raise SignatureError(f"{name}: {SIGNATURE} is not a signature: it is too large")
    try:
        key.set_hashing_config(_hashing()).verify(folder, signature)
    # A hostile file can stop the check in many ways.
    except Exception as error:
        raise SignatureError(
            f"{name} is not what the holder of {public_key} signed: {_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    text = str(error).strip(". ") or type(error).__name__
    differences = text.removeprefix("Signature mismatch: ")
    if differences == text:
        return text
    # A list of texts, of which some end with both digests.
    return "; ".join(each.partition(": Expected ")[0] for each in ast.literal_eval(differences))


def _hashing() -> hashing.Config:
    from model_signing import hashing

    return hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)
