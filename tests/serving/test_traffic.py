"""Recording what a model server is asked: nginx before the own server, and the recorder."""

from __future__ import annotations

import gzip
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
import requests
import tensorflow_data_validation as tfdv

from components import features
from components.model_server.client import strings
from components.model_server.server import ModelServer
from pipeline.errors import ConfigError
from pipeline.monitoring import logs, recorder, retention, rows
from pipeline.monitoring.logs import Limits
from pipeline.monitoring.proxy import GRPC_PATH, ID_HEADER, PATIENCE, Proxy
from pipeline.monitoring.recorder import Mirrored, RecordOptions, SkippedRequest, read_request
from tests.kit.cli import perennial
from tests.kit.image_corpus import encoded
from tests.kit.serving import (
    MODEL,
    PREDICT,
    b64,
    connected,
    example,
    picture,
    post,
    push,
    wait_until,
    write_config,
)
from tests.kit.tiny_export import export_colour_model
from tests.kit.traffic import NGINX, Front, nginx, recorded, recorder_process, recording, stand_in

needs_nginx = pytest.mark.skipif(not NGINX, reason="no nginx on this machine: make services")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    """Version 1, labelled stable, and 2, labelled canary, which takes red for green."""
    folder = tmp_path_factory.mktemp("served")
    export_colour_model(folder / "one", sharpness=8)
    export_colour_model(folder / "two", sharpness=8, channels="grb")
    base = folder / MODEL
    base.mkdir()
    push(folder / "one", base, 1)
    push(folder / "two", base, 2)
    write_config(folder / "models.config", base, [1, 2], stable=1, canary=2)
    with ModelServer(config_file=folder / "models.config") as running:
        running.wait_ready()
        yield running


@needs_nginx
class TestRecording:
    def test_answers_are_the_servers_and_both_protocols_are_recorded(
        self, server: ModelServer, tmp_path: Path
    ) -> None:
        image = picture("red", (40, 30), "JPEG")
        with recording(tmp_path, server) as port, nginx(server, port) as front:
            answer = post(
                front, PREDICT.replace(":", "/labels/stable:"), {"instances": [b64(image)]}
            )
            direct = post(
                server, PREDICT.replace(":", "/labels/stable:"), {"instances": [b64(image)]}
            )
            assert answer.json() == direct.json()
            with connected(front) as client:
                images = {"image_bytes": strings([image, picture("blue")])}
                version, outputs = client.predict(MODEL, images, version=2)
                assert version == 2
                assert client.status(MODEL)[1][0] == "AVAILABLE"
            wait_until(lambda: recorded(port) == 2)
        found = logs.read(tmp_path)
        assert found.damaged == []
        first, second, third = found.rows
        assert (first.request, first.protocol) == (answer.headers[ID_HEADER], "rest")
        assert (first.label, first.version, first.status) == ("stable", 1, rows.OK)
        assert (first.predicted, first.image) == ("red", image)
        assert (first.width, first.height, first.channels, first.format) == (40, 30, 3, "jpeg")
        assert first.probabilities == pytest.approx(
            answer.json()["predictions"][0]["probabilities"]
        )
        assert len(first.embedding) == 0
        assert (second.request, second.position) == (third.request, 0)
        assert (third.position, third.label, third.version, third.protocol) == (1, "", 2, "grpc")
        recorded_ones = np.array([second.probabilities, third.probabilities])
        assert np.array_equal(recorded_ones, outputs["probabilities"])
        assert all(abs(each.time / 1000 - time.time()) < 600 for each in found.rows)

    def test_is_read_by_tfdv_and_by_beam(self, server: ModelServer, tmp_path: Path) -> None:
        with recording(tmp_path, server) as port, nginx(server, port) as front:
            post(front, PREDICT, {"instances": [b64(picture("red")), b64(picture("green"))]})
            wait_until(lambda: recorded(port) == 1)
        counts = tfdv.generate_statistics_from_tfrecord(f"{tmp_path}/*.tfrecord")
        heights = tfdv.get_feature_stats(counts.datasets[0], tfdv.FeaturePath([features.HEIGHT]))
        assert (heights.num_stats.common_stats.num_non_missing, heights.num_stats.mean) == (2, 9)
        with beam.Pipeline("FnApiRunner") as pipeline:
            (
                pipeline
                | beam.io.ReadFromTFRecord(f"{tmp_path}/*.tfrecord")
                | beam.Map(lambda record: rows.from_example(record).predicted)
                | beam.io.WriteToText(f"{tmp_path}/classes", shard_name_template="")
            )
        assert sorted((tmp_path / "classes").read_text().split()) == ["green", "red"]

    def test_ids_are_the_callers_or_new_ones(self, server: ModelServer, tmp_path: Path) -> None:
        with recording(tmp_path, server) as port, nginx(server, port) as front:
            address = f"http://{front.host}:{front.rest_port}{PREDICT}"
            body = {"instances": [b64(picture())]}
            answers = [
                requests.post(address, json=body, headers={ID_HEADER: name}, timeout=60)
                for name in ("order-7.a_B", "two words", "x" * 65, "a\t'\"")
            ]
            refused = requests.post(address, data=b"{", timeout=60)
            assert refused.status_code == 400
            assert len(refused.headers[ID_HEADER]) == 32
            wait_until(lambda: recorded(port) == 4)
        first, *others = [answer.headers[ID_HEADER] for answer in answers]
        assert first == "order-7.a_B"
        assert all(len(each) == 32 and each.isalnum() for each in others)
        assert {each.request for each in logs.read(tmp_path).rows} == {first, *others}

    def test_the_share_is_that_of_the_requests(self, server: ModelServer, tmp_path: Path) -> None:
        got: list[str] = []

        def count(handler: BaseHTTPRequestHandler) -> None:
            got.append(handler.headers[ID_HEADER])
            handler.send_response(204)
            handler.end_headers()

        with stand_in(count) as port, nginx(server, port, share=0.2) as front:
            sent = [
                post(front, PREDICT, {"instances": [b64(picture())]}).headers[ID_HEADER]
                for _ in range(400)
            ]
        assert len(set(sent)) == 400
        assert set(got) <= set(sent)
        assert 40 <= len(got) <= 125  # 80 +- 5.5 standard deviations

    def test_credentials_stay_with_the_server(self, server: ModelServer) -> None:
        got: list[dict[str, str]] = []

        def keep(handler: BaseHTTPRequestHandler) -> None:
            got.append(dict(handler.headers))
            handler.send_response(204)
            handler.end_headers()

        with stand_in(keep) as port, nginx(server, port) as front:
            secret = {"Authorization": "Bearer s3cret", "Cookie": "s3cret"}
            requests.post(
                f"http://{front.host}:{front.rest_port}{PREDICT}",
                json={"instances": [b64(picture())]},
                headers=secret,
                timeout=60,
            ).raise_for_status()
            wait_until(lambda: bool(got))
        assert "s3cret" not in str(got)

    def test_images_that_the_server_refuses_are_recorded_too(
        self, server: ModelServer, tmp_path: Path
    ) -> None:
        from PIL import Image

        webp = encoded(Image.new("RGB", (20, 20), (250, 0, 0)), "WEBP")
        with recording(tmp_path, server) as port, nginx(server, port) as front:
            body = {"instances": [b64(picture("blue")), b64(webp), b64(b"no image")]}
            assert post(front, PREDICT, body).status_code == 400
            wait_until(lambda: recorded(port) == 1)
        good, bad, junk = logs.read(tmp_path).rows
        assert (good.status, good.predicted) == (rows.OK, "blue")
        assert (bad.status, bad.format, bad.is_decoded) == ("INVALID_ARGUMENT", "WebP", False)
        assert (junk.status, junk.format) == ("INVALID_ARGUMENT", "unknown")

    def test_shadows_are_asked_about_the_same_image(
        self, server: ModelServer, tmp_path: Path
    ) -> None:
        what = RecordOptions(shadows=("canary", "stable", "none-such"))
        with recording(tmp_path, server, what) as port, nginx(server, port) as front:
            for _ in range(2):
                body = {"instances": [b64(picture("red"))]}
                post(front, PREDICT.replace(":", "/labels/stable:"), body)
            wait_until(lambda: recorded(port) == 2)
        found = [
            (each.label, each.is_shadow, each.version, each.predicted)
            for each in logs.read(tmp_path).rows
        ]
        assert sorted(found) == sorted(
            2 * [("stable", False, 1, "red"), ("canary", True, 2, "green")]
        )

    def test_images_can_be_left_out(self, server: ModelServer, tmp_path: Path) -> None:
        image = picture("red", (600, 400))
        with (
            recording(tmp_path, server, RecordOptions(False, True)) as port,
            nginx(server, port) as front,
        ):
            post(front, PREDICT.replace(":", "/versions/1:"), {"instances": [b64(image)]})
            wait_until(lambda: recorded(port) == 1)
        (found,) = logs.read(tmp_path).rows
        assert (found.image, found.width, found.predicted) == (b"", 600, "red")
        assert found.embedding == pytest.approx([250, 20, 10], abs=0.5)
        (file,) = retention.files(tmp_path)
        assert image[60:100] not in file.read_bytes()
        assert file.stat().st_mode & 0o077 == 0


def _hang(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(30)


def _refuse(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(503)
    handler.end_headers()


def _hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.connection.close()


def _junk(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"\0\1\2 no HTTP\r\n\r\n")
    handler.close_connection = True


@needs_nginx
class TestNoCallerNotices:
    def ask(self, front: Front, count: int = 20) -> None:
        """Over one connection each, as a request may wait for what the one before it left."""
        body = {"instances": [b64(picture())]}
        with requests.Session() as session, connected(front) as client:
            for _ in range(count):
                address = f"http://{front.host}:{front.rest_port}{PREDICT}"
                answer = session.post(address, json=body, timeout=20)
                assert answer.status_code == 200
                assert answer.headers[ID_HEADER]
                client.predict(MODEL, {"image_bytes": strings([picture()])})

    @pytest.mark.parametrize("fault", [_hang, _refuse, _hang_up, _junk])
    def test_a_recorder_that_does_not_work(
        self, server: ModelServer, fault: Callable[[BaseHTTPRequestHandler], None]
    ) -> None:
        asked: list[None] = []

        def answer(handler: BaseHTTPRequestHandler) -> None:
            asked.append(None)
            fault(handler)

        with stand_in(answer) as port, nginx(server, port, patience=PATIENCE) as front:
            self.ask(front)
        if fault is _hang:
            assert len(asked) < 10  # after the first, nothing is mirrored for a while

    def test_a_recorder_that_is_not_there(self, server: ModelServer) -> None:
        with stand_in(_refuse) as port:
            pass
        with nginx(server, port, patience=PATIENCE) as front:
            self.ask(front)

    def test_the_command_keeps_what_it_took_when_it_is_stopped(
        self, server: ModelServer, tmp_path: Path
    ) -> None:
        options = ("--no-images", "--shadow=canary")
        with recorder_process(tmp_path, server, *options) as process:
            assert isinstance(process.args, list)
            with nginx(server, int(process.args[-1])) as front:
                self.ask(front, 10)
        assert process.returncode == 0
        found = logs.read(tmp_path)
        assert len(found.rows) == 20  # without a label, version 2 answers, which is the canary too
        assert {(each.version, each.image) for each in found.rows} == {(2, b"")}
        assert found.damaged == []

    def test_a_full_disk_is_counted(self, server: ModelServer, tmp_path: Path) -> None:
        (tmp_path / "logs").mkdir()
        with recording(tmp_path / "logs", server) as port, nginx(server, port) as front:
            (tmp_path / "logs").rmdir()
            (tmp_path / "logs").write_text("in the way")
            self.ask(front, 2)
            wait_until(lambda: recorded(port, "disk") == 4)

    def test_a_server_that_is_away_is_an_error_of_its_own(self, server: ModelServer) -> None:
        with stand_in(_refuse) as port:
            gone = Front("127.0.0.1", port, port)
        with nginx(gone, port) as front:
            answer = post(front, PREDICT, {"instances": [b64(picture())]})
            assert answer.status_code == 502


class TestTheQueue:
    def test_what_does_not_fit_is_dropped_and_counted(self, tmp_path: Path) -> None:
        waiting = recorder.Recorder(tmp_path, "127.0.0.1:1", recorder.RecordOptions(), Limits())
        large = Mirrored("a", 0, "/", bytes(recorder.REQUEST_BYTES), "")
        taken = [waiting.take(large) for _ in range(6)]
        assert taken == [True] * 4 + [False] * 2
        assert 'perennial_recorder_requests_total{result="full"} 2.0' in waiting.metrics()

    @pytest.mark.parametrize(
        ("uri", "body", "reason"),
        [
            ("/v1/models/m:predict", b"{", "malformed"),
            ("/v1/models/m:predict", b'{"a": 1}', "malformed"),
            ("/v1/models/m:predict", b'{"instances": [1, 2]}', "no-image"),
            ("/v1/models/m:predict", b'{"instances": [{"b64": 3}]}', "malformed"),
            ("/v1/models/m:predict", b"[" * 100_000, "malformed"),
            ("/v1/models/m/versions/99999999999999999999:predict", b"{}", "malformed"),
            ("/elsewhere", b"{}", "malformed"),
            (GRPC_PATH, b"", "malformed"),
            (GRPC_PATH, b"\0\0\0\0\5abcde", "malformed"),
            (GRPC_PATH, b"\1\0\0\0\5abcde", "malformed"),
            (
                "/v1/models/m:predict",
                b'{"signature_name": "embeddings", "instances": [{"b64": "YWE="}]}',
                "other-signature",
            ),
        ],
    )
    def test_what_is_no_request_about_images(self, uri: str, body: bytes, reason: str) -> None:
        with pytest.raises(SkippedRequest, match=reason):
            read_request(Mirrored("a", 0, uri, body, ""))

    def test_what_unpacks_to_too_much(self) -> None:
        bomb = gzip.compress(bytes(recorder.REQUEST_BYTES + 1))
        with pytest.raises(SkippedRequest, match="malformed"):
            read_request(Mirrored("a", 0, "/v1/models/m:predict", bomb, "gzip"))

    @pytest.mark.parametrize(
        "content",
        [
            {"instances": [b64(b"one"), b64(b"two")]},
            {"instances": [{"image_bytes": b64(b"one")}, {"image_bytes": b64(b"two")}]},
            {"inputs": [b64(b"one"), b64(b"two")]},
            {"inputs": {"image_bytes": [b64(b"one"), b64(b"two")]}},
            {
                "signature_name": "serving_examples",
                "instances": [b64(example(b"one")), b64(example(b"two"))],
            },
        ],
    )
    def test_each_form_of_a_request(self, content: object) -> None:
        packed = gzip.compress(json.dumps(content).encode())
        sent = Mirrored("a", 0, "/v1/models/m/labels/canary:predict", packed, "gzip")
        asked, images = read_request(sent)
        assert images == [b"one", b"two"]
        assert (asked.model_spec.name, asked.model_spec.version_label) == ("m", "canary")


class TestTheProxysConfiguration:
    @needs_nginx
    @pytest.mark.parametrize("share", [0.0, 0.00001, 0.0001, 0.5, 1.0])
    def test_nginx_takes_every_share(self, share: float, tmp_path: Path) -> None:
        ports = ("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4", "127.0.0.1:5")
        command = Proxy(*ports, share, str(tmp_path)).command()
        done = subprocess.run([command[0], "-t", *command[1:]], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def test_a_share_that_is_none(self) -> None:
        with pytest.raises(ConfigError, match=r"1\.5"):
            Proxy("a:1", "a:2", "a:3", "a:4", "a:5", 1.5, "/tmp").configuration()

    def test_without_nginx(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shutil.which", lambda *_, **__: None)
        assert perennial("traffic", "proxy", "--folder", tmp_path).exit_code == 2

    def test_files_larger_than_the_folder(self, tmp_path: Path) -> None:
        asked = ("traffic", "record", tmp_path, "--max-mb", 10, "--file-mb", 6)
        assert perennial(*asked).exit_code == 2
