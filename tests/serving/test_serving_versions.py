"""The part of the contract of test_serving_contract.py that changes what is served."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components.model_server import config_file
from components.model_server.client import strings
from components.model_server.errors import ServingError
from components.model_server.tensors import Arrays
from tests.kit.servers import running
from tests.kit.serving import (
    MODEL,
    SECONDS,
    Running,
    connected,
    picture,
    push,
    rows,
    wait_until,
    write_config,
)
from tests.kit.tiny_export import write_warmup


class TestVersions:
    """These start servers of their own, because they change what is served."""

    @pytest.fixture
    def base(self, tmp_path: Path, colour_models: list[Path]) -> Path:
        base = tmp_path / "base"
        base.mkdir()
        push(colour_models[0], base, 1)
        return base

    def test_swapping_versions_under_load_fails_no_request_and_never_goes_back(
        self, kind: str, base: Path, colour_models: list[Path], expected: Callable[..., Arrays]
    ) -> None:
        answers = {
            expected(number, [picture()])["probabilities"].tobytes(): number for number in (1, 2, 3)
        }
        seen: list[list[int]] = [[] for _ in range(4)]

        def ask(server: Running, index: int) -> None:
            """Ask until version 3 has answered some times; a failure ends the test."""
            give_up = time.monotonic() + SECONDS
            with connected(server) as client:
                while seen[index].count(3) < 20 and time.monotonic() < give_up:
                    if index % 2:
                        outputs = rows(client.predict_images(MODEL, [picture()]))
                    else:
                        _, outputs = client.predict(MODEL, {"image_bytes": strings([picture()])})
                    seen[index].append(answers[outputs["probabilities"].tobytes()])

        with running(kind, base) as server:
            server.wait_ready(SECONDS)
            with ThreadPoolExecutor(4) as threads, connected(server) as client:
                asking = [threads.submit(ask, server, index) for index in range(4)]
                for number in (2, 3):
                    push(colour_models[number - 1], base, number)
                    client.wait_available(MODEL, number, SECONDS)
                for future in asking:
                    future.result()
            with connected(server) as client:
                wait_until(lambda: client.rest_status(MODEL)[1] == "END")
        for versions in seen:
            assert versions == sorted(versions)
            assert versions[0] == 1
            assert versions[-1] == 3

    def test_a_server_started_before_the_first_push_takes_it(
        self, kind: str, tmp_path: Path, colour_models: list[Path]
    ) -> None:
        base = tmp_path / "empty"
        base.mkdir()
        with running(kind, base) as server:
            push(colour_models[0], base, 7)
            server.wait_ready(SECONDS)
            with connected(server) as client:
                assert client.predict(MODEL, {"image_bytes": strings([picture()])})[0] == 7

    def test_what_is_being_copied_is_not_looked_at(
        self, kind: str, base: Path, colour_models: list[Path]
    ) -> None:
        for name in (".staging-1", "2.tmp", "tmp-2"):
            shutil.copytree(colour_models[1], base / name)
        with running(kind, base) as server:
            server.wait_ready(SECONDS)
            with connected(server) as client:
                assert client.rest_status(MODEL) == {1: "AVAILABLE"}

    @pytest.mark.parametrize("damage", ["no variables", "junk warm-up", "failing warm-up"])
    def test_a_version_that_fails_its_warm_up_leaves_the_old_one_serving(
        self, kind: str, base: Path, colour_models: list[Path], damage: str
    ) -> None:
        broken = base / ".staging"
        shutil.copytree(colour_models[1], broken)
        image = b"no image" if damage == "failing warm-up" else picture()
        write_warmup(broken, [image], "serving_default", "image_bytes")
        if damage == "no variables":
            shutil.rmtree(broken / "variables")
        if damage == "junk warm-up":
            (broken / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"junk" * 100)
        with running(kind, base) as server:
            server.wait_ready(SECONDS)
            broken.rename(base / "2")
            with connected(server) as client:
                with pytest.raises(ServingError) as caught:
                    client.wait_available(MODEL, 2, SECONDS)
                assert caught.value.code == "FAILED_PRECONDITION"
                assert client.rest_status(MODEL) == {2: "END", 1: "AVAILABLE"}
                assert client.predict(MODEL, {"image_bytes": strings([picture()])})[0] == 1

    def test_labels_move_by_reloading_and_back(
        self, kind: str, base: Path, colour_models: list[Path], tmp_path: Path
    ) -> None:
        push(colour_models[1], base, 2)
        config, proposed = tmp_path / "models.config", tmp_path / "proposed.config"
        write_config(config, base, [1], stable=1)

        with running(kind, base, config, follow=False) as server, connected(server) as client:
            server.wait_ready(SECONDS)

            def versions_by_label(*labels: str) -> list[int]:
                image = {"image_bytes": strings([picture()])}
                return [client.predict(MODEL, image, label=label)[0] for label in labels]

            def reload(versions: list[int], **labels: int) -> None:
                write_config(proposed, base, versions, **labels)
                client.reload(config_file.read(proposed))

            with pytest.raises(ServingError) as caught:
                reload([1, 2], stable=2)
            assert caught.value.code == "FAILED_PRECONDITION"
            assert versions_by_label("stable") == [1]

            reload([1, 2], stable=1, canary=2)
            client.wait_available(MODEL, 2, SECONDS)
            assert versions_by_label("stable", "canary") == [1, 2]
            reload([1, 2], stable=2)
            assert versions_by_label("stable") == [2]
            reload([1, 2], stable=1)
            assert versions_by_label("stable") == [1]

    def test_a_changed_configuration_file_is_followed(
        self, kind: str, base: Path, colour_models: list[Path], tmp_path: Path
    ) -> None:
        push(colour_models[1], base, 2)
        config = tmp_path / "models.config"
        write_config(config, base, [1], stable=1)
        with running(kind, base, config) as server, connected(server) as client:
            server.wait_ready(SECONDS)
            write_config(config, base, [1, 2], stable=1)
            client.wait_available(MODEL, 2, SECONDS)
            write_config(config, base, [2], stable=2)
            wait_until(lambda: client.rest_status(MODEL)[1] == "END")
            image = {"image_bytes": strings([picture()])}
            assert client.predict(MODEL, image, label="stable")[0] == 2

    def test_of_a_reload_and_a_file_that_is_followed_the_file_wins(
        self, kind: str, base: Path, colour_models: list[Path], tmp_path: Path
    ) -> None:
        push(colour_models[1], base, 2)
        config, proposed = tmp_path / "models.config", tmp_path / "proposed.config"
        write_config(config, base, [1], stable=1)
        write_config(proposed, base, [1, 2], stable=1, canary=2)
        with running(kind, base, config) as server, connected(server) as client:
            server.wait_ready(SECONDS)

            def canary() -> str:
                try:
                    return str(client.predict(MODEL, image, label="canary")[0])
                except ServingError as error:
                    return error.code

            image = {"image_bytes": strings([picture()])}
            for _ in range(3):
                client.reload(config_file.read(proposed))
                # It may have answered meanwhile, and is gone with the next look at the file.
                wait_until(lambda: canary() == "INVALID_ARGUMENT")
                wait_until(lambda: client.rest_status(MODEL).get(2, "END") == "END")
                assert client.predict(MODEL, image, label="stable")[0] == 1
