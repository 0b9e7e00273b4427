"""Signed versions: tampered, unsigned and foreign ones are refused, and the old one stays."""

from __future__ import annotations

import dataclasses
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from typer.testing import Result

from components import storage
from components.model_registry import (
    CANARY,
    STABLE,
    Registry,
    versions,
)
from components.model_registry.signing import SIGNATURE, Keys, SignatureError, verify_version
from components.model_server import launch
from components.model_server.server import ModelServer
from pipeline.config import load
from pipeline.errors import ConfigError
from tests.kit.cli import perennial
from tests.kit.keys import write_private
from tests.kit.registry_models import FILES, write_model
from tests.kit.serving import MODEL, SECONDS, b64, get, picture, post, wait_until


@pytest.fixture
def keys(make_keys: Callable[[str], Keys]) -> Keys:
    return make_keys("mine")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "serving" / MODEL


def push(model: Path, base: Path, keys: Keys | None) -> int:
    return versions.push(model, base, {"run": "r"}, 10, lambda: (), keys)


def change(version: Path) -> None:
    (version / FILES[1]).write_text("other weights")


def add(version: Path) -> None:
    (version / "variables" / "more").touch()


def remove(version: Path) -> None:
    (version / FILES[2]).unlink()


def link(version: Path) -> None:
    (version / FILES[2]).unlink()
    (version / FILES[2]).symlink_to(version / FILES[0])


def tell_other_metrics(version: Path) -> None:
    manifest = version / versions.MANIFEST
    manifest.write_text(manifest.read_text().replace('"run": "r"', '"run": "s"'))


def take_the_signature_away(version: Path) -> None:
    (version / SIGNATURE).unlink()


def write_junk(version: Path) -> None:
    (version / SIGNATURE).write_text('{"verificationMaterial": {}}')


def write_too_much(version: Path) -> None:
    with (version / SIGNATURE).open("wb") as file:
        file.truncate(1 << 30)


def put_an_older_version_in_its_place(version: Path) -> None:
    shutil.rmtree(version)
    shutil.copytree(version.with_name("1"), version)


class TestVersion:
    def test_whole_and_untouched_it_passes(self, model: Path, base: Path, keys: Keys) -> None:
        assert push(model, base, keys) == 1
        verify_version(str(base), 1, keys.public)

    @pytest.mark.parametrize(
        ("tamper", "words"),
        [
            (change, r"Hash mismatch for 'variables/variables\.index'"),
            (add, "Extra files found .*variables/more"),
            (remove, r"Missing files .*assets\.extra/classes\.json"),
            (link, "it is a symlink"),
            (tell_other_metrics, f"Hash mismatch for '{versions.MANIFEST}'"),
            (take_the_signature_away, "/2 is not signed: it has no model.sig"),
            (write_junk, "is not what the holder of .*mine.pub signed"),
            (write_too_much, "is not a signature: it is too large"),
            (put_an_older_version_in_its_place, "was signed as version 1, not 2"),
        ],
    )
    def test_tampered_with_it_is_refused(
        self, model: Path, base: Path, keys: Keys, tamper: Callable[[Path], None], words: str
    ) -> None:
        push(model, base, keys)
        assert push(write_model(model, "next"), base, keys) == 2
        tamper(base / "2")
        with pytest.raises(SignatureError, match=words):
            verify_version(str(base), 2, keys.public)
        verify_version(str(base), 1, keys.public)

    def test_signed_with_another_key_it_is_refused(
        self, model: Path, base: Path, keys: Keys, make_keys: Callable[[str], Keys]
    ) -> None:
        push(model, base, make_keys("theirs"))
        with pytest.raises(SignatureError, match=r"mine\.pub signed: Key mismatch.*\w$"):
            verify_version(str(base), 1, keys.public)

    def test_what_is_no_public_key_is_named(self, model: Path, base: Path, keys: Keys) -> None:
        push(model, base, keys)
        for wrong in (keys.private, base / "absent"):
            with pytest.raises(
                SignatureError, match=f"{wrong} is not an elliptic public key in PEM"
            ):
                verify_version(str(base), 1, wrong)


class TestPush:
    def test_what_is_there_unsigned_is_pushed_again_once(
        self, model: Path, base: Path, keys: Keys
    ) -> None:
        assert push(model, base, None) == 1
        assert push(model, base, keys) == push(model, base, keys) == 2
        (base / "2" / SIGNATURE).unlink()
        assert push(model, base, keys) == 3

    def test_keys_that_are_no_pair_are_refused_before_a_version_appears(
        self, model: Path, base: Path, keys: Keys, make_keys: Callable[[str], Keys]
    ) -> None:
        push(model, base, keys)
        wrong = dataclasses.replace(keys, public=make_keys("theirs").public)
        with pytest.raises(
            ConfigError,
            match=r"signing\.public_key: servers would refuse the model: the version is .*[^. ]; "
            f"give the public key of {keys.private}$",
        ):
            push(write_model(model, "next"), base, wrong)
        assert versions.find(str(base)) == [1]
        assert not list(base.glob(".[0-9]*-*"))

    def test_a_key_that_cannot_sign_is_named(
        self, model: Path, base: Path, keys: Keys, tmp_path: Path
    ) -> None:
        wrong = [
            keys.public,
            tmp_path / "absent",
            write_private(tmp_path / "rsa.pem", rsa.generate_private_key(65537, 2048)),
            write_private(
                tmp_path / "locked.pem",
                ec.generate_private_key(ec.SECP256R1()),
                serialization.BestAvailableEncryption(b"secret"),
            ),
        ]
        for file in wrong:
            with pytest.raises(ConfigError, match=f"private_key: {file} cannot sign"):
                push(model, base, dataclasses.replace(keys, private=file))
        assert versions.find(str(base)) == []

    def test_an_object_store_is_signed_and_checked_alike(self, model: Path, keys: Keys) -> None:
        prefix = f"memory://{uuid.uuid4().hex}/models/{MODEL}"
        for _ in range(2):
            assert versions.push(model, prefix, {}, 10, lambda: (), keys) == 1
        verify_version(prefix, 1, keys.public)
        storage.write_text(f"{prefix}/1/saved_model.pb", "other")
        with pytest.raises(SignatureError, match=r"Hash mismatch for 'saved_model\.pb'"):
            verify_version(prefix, 1, keys.public)
        assert versions.push(model, prefix, {}, 10, lambda: (), keys) == 2

    def test_one_key_without_the_other_is_a_configuration_error(self, keys: Keys) -> None:
        with pytest.raises(ConfigError, match=r"private_key and public_key must be given together"):
            load(None, {"push.signing.private_key": str(keys.private)})


class TestServed:
    @pytest.fixture
    def target(self, base: Path, keys: Keys, colour_models: list[Path]) -> Registry:
        """Version 1 is signed, and version 2 is not."""
        push(colour_models[0], base, keys)
        push(colour_models[1], base, None)
        return Registry(str(base), str(base.parent / "models.config"), MODEL, keys.public)

    def test_promotion_refuses_and_changes_nothing(self, target: Registry) -> None:
        target.promote(1, STABLE)
        before = Path(target.config).read_text()
        with pytest.raises(ConfigError, match="/2 is not signed"):
            target.promote(2, CANARY)
        assert Path(target.config).read_text() == before

    def test_rollback_refuses_what_it_would_bring_back(self, target: Registry) -> None:
        unchecked = dataclasses.replace(target, public_key=None)
        unchecked.promote(2, STABLE)
        (Path(target.base or "") / "1" / "assets.extra" / "more").touch()
        with pytest.raises(ConfigError, match="Extra files"):
            target.rollback()

    def test_the_server_keeps_the_old_version(self, target: Registry, base: Path) -> None:
        unsigned = (base / "2").rename(base / ".later")
        with ModelServer(
            base, MODEL, poll_seconds=0.05, load_retries=0, public_key=target.public_key
        ) as server:
            server.wait_ready(SECONDS)
            unsigned.rename(base / "2")
            wait_until(lambda: any(v.given_up for v in server.manager.status(MODEL)))
            [new, old] = get(server, f"/v1/models/{MODEL}").json()["model_version_status"]
            assert (old["version"], old["state"]) == ("1", "AVAILABLE")
            assert (new["version"], new["state"]) == ("2", "END")
            assert new["status"]["error_code"] == "PERMISSION_DENIED"
            assert "is not signed" in new["status"]["error_message"]
            rows = {"instances": [b64(picture())]}
            assert post(server, f"/v1/models/{MODEL}:predict", rows).status_code == 200

    def test_a_server_that_cannot_check_is_given_promoted_and_checked_versions_only(
        self, target: Registry, base: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        started: list[list[str]] = []
        monkeypatch.setattr("os.execvp", lambda _, arguments: started.append(arguments))
        real = launch.Backend(launch.Kind.TENSORFLOW_SERVING, "program")
        monkeypatch.setattr(launch, "find_backend", lambda: real)

        def serve() -> Result:
            key = ("--public-key", target.public_key)
            return perennial("serve", "--workspace", base.parent.parent, *key)

        newest = serve()
        assert newest.exit_code == 2
        assert "follows the newest version, which TensorFlow Serving loads unchecked" in (
            newest.output
        )
        target.promote(1, STABLE)
        assert serve().exit_code == 0
        (base / "1" / "assets.extra" / "classes.json").write_text("[]")
        tampered = serve()
        assert tampered.exit_code == 2
        assert "classes.json" in tampered.output
        assert len(started) == 1

    def test_the_own_server_is_told_the_key(self, base: Path, keys: Keys) -> None:
        source = launch.Source.of_model(base, MODEL)
        arguments = launch.command(launch.own_backend(), source, 1, 2, public_key=keys.public)
        assert f"--public_key={keys.public}" in arguments
