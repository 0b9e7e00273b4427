"""ML Metadata on the databases that teams run."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2

from kubeflow.metadata import connection_config, location, refusal
from pipeline.errors import ConfigError, DatabaseLost, NodeFailed
from tests import REPO
from tests.kit import databases
from tests.kit.databases import PASSWORD, Database
from tests.kit.recorder import Recorder

POD = {
    "PERENNIAL_METADATA_KIND": "mysql",
    "PERENNIAL_METADATA_HOST": "metadata-db",
    "PERENNIAL_METADATA_PASSWORD": PASSWORD,
}


@pytest.fixture(scope="module", params=["mysql", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    with databases.running(request.param) as server:
        yield server


def changed(env: Mapping[str, str], **values: str | None) -> dict[str, str]:
    names = {f"PERENNIAL_METADATA_{name}": value for name, value in values.items()}
    return {name: value for name, value in {**env, **names}.items() if value is not None}


class TestSettings:
    def test_mysql(self) -> None:
        config = connection_config(POD).mysql
        assert (config.host, config.port) == ("metadata-db", 3306)
        assert (config.database, config.user) == ("perennial", "perennial")
        assert config.password == PASSWORD
        assert config.skip_db_creation
        assert not config.HasField("ssl_options")

    def test_mysql_by_tcp_on_this_host(self) -> None:
        assert connection_config(changed(POD, HOST="localhost")).mysql.host == "127.0.0.1"

    def test_the_port_of_a_service_that_is_called_perennial_metadata(self) -> None:
        env = changed(POD, PORT="tcp://10.0.0.1:3307")
        assert connection_config(env).mysql.port == 3307

    def test_mysql_encrypted(self) -> None:
        assert connection_config(changed(POD, TLS="true")).mysql.HasField("ssl_options")

    def test_postgresql_as_it_goes_into_a_connection_string(self) -> None:
        config = connection_config(changed(POD, KIND="postgresql", USER="o'hara")).postgresql
        assert (config.host, config.port, config.user) == ("'metadata-db'", "5432", r"'o\'hara'")
        assert config.password == r"'it\'s 50% \\secret'"

    def test_sqlite(self, tmp_path: Path) -> None:
        env = changed({}, KIND="sqlite", PATH=str(tmp_path / "metadata.sqlite"))
        MetadataStore(connection_config(env)).get_artifacts()
        assert (tmp_path / "metadata.sqlite").exists()

    @pytest.mark.parametrize(
        ("values", "problem"),
        [
            ({"KIND": None}, "KIND .*mysql, postgresql, sqlite"),
            ({"KIND": "mariadb"}, "KIND = 'mariadb': .*mysql, postgresql, sqlite"),
            ({"KIND": "sqlite"}, "PATH "),
            ({"HOST": ""}, "HOST .*empty"),
            ({"PASSWORD": None}, "PASSWORD .*secret"),
            ({"PORT": "70000"}, "PORT = '70000': .*65535"),
            ({"TLS": "1"}, "TLS = '1': .*true .*false"),
            ({"KIND": "postgresql", "TLS": "true"}, "TLS.*postgresql"),
        ],
    )
    def test_each_mistake_is_one_clear_line(
        self, values: dict[str, str | None], problem: str
    ) -> None:
        with pytest.raises(ConfigError, match=f"^PERENNIAL_METADATA_{problem}") as caught:
            connection_config(changed(POD, **values))
        assert PASSWORD not in str(caught.value)

    def test_the_location_is_told_without_the_password(self) -> None:
        assert re.match("mysql .*perennial .*metadata-db:3306 .*perennial$", location(POD))
        assert "/data/m.db" in location(changed({}, KIND="sqlite", PATH="/data/m.db"))


class TestDatabase:
    # First, so that the tables are made by two at once too.
    def test_two_nodes_write_at_once(self, database: Database) -> None:
        count = 15
        writers = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.kit.metadata_writer", name, str(count)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=REPO,
                env={**os.environ, **database.env},
            )
            for name in ("Trainer", "Evaluator")
        ]
        for writer in writers:
            assert writer.stdout
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            assert writer.stdin
            writer.stdin.write("\n")
            writer.stdin.flush()
        for writer in writers:
            _, stderr = writer.communicate(timeout=300)
            assert writer.returncode == 0, stderr
            assert PASSWORD not in stderr

        store = MetadataStore(connection_config(database.env))
        for name in ("Trainer", "Evaluator"):
            executions = store.get_executions_by_type(name)
            assert len(executions) == count
            states = {execution.last_known_state for execution in executions}
            assert states == {metadata_store_pb2.Execution.COMPLETE}
        uris = [artifact.uri for artifact in store.get_artifacts_by_type("Model")]
        wanted = {f"s3://bucket/{n}/{i}" for n in ("Trainer", "Evaluator") for i in range(count)}
        assert sorted(uris) == sorted(wanted)
        # Both asked for the contexts to be made, and both are in the same.
        contexts = store.get_contexts()
        assert sorted(context.name for context in contexts) == ["digits", "run-1"]
        for context in contexts:
            assert len(store.get_executions_by_context(context.id)) == 2 * count

    def test_a_node_waits_for_a_database_that_comes_back(
        self, database: Database, recorder: Recorder
    ) -> None:
        from kubeflow.patient_metadata import PatientMetadata

        connection = PatientMetadata(database.env)
        with connection as metadata:
            before = len(metadata.store.get_executions())
        database.stop()
        after: list[int] = []

        def publish() -> None:
            with connection as metadata:
                after.append(len(metadata.store.get_executions()))

        node = threading.Thread(target=publish)
        node.start()
        try:
            while node.is_alive() and not recorder.of("note", "text"):
                node.join(0.1)
        finally:
            database.start()
        node.join(60)
        assert after == [before]
        (note,) = recorder.of("note", "text")
        assert re.search("Connection refused; .* 600 s", note)

    def test_a_node_that_loses_it_is_told_apart(self, database: Database) -> None:
        from kubeflow.patient_metadata import PatientMetadata, loss_told_apart

        def node(work: Callable[[Any], object]) -> None:
            # As NodeRunner does.
            try:
                with PatientMetadata(database.env) as metadata:
                    work(metadata.store)
            except Exception as error:
                raise NodeFailed(f"Trainer failed: {error}") from error

        def lose(store: Any) -> None:
            database.stop()
            store.get_executions()

        try:
            with pytest.raises(DatabaseLost, match="Trainer failed: "), loss_told_apart():
                node(lose)
        finally:
            database.start()
        with pytest.raises(NodeFailed, match="Trainer failed: invalid literal"), loss_told_apart():
            node(lambda _: int("7 of 9"))

    def test_a_wrong_password_is_one_clear_line(self, database: Database) -> None:
        problem = _refused(changed(database.env, PASSWORD="not the one"))
        assert re.search(rf"{database.kind} .*127\.0\.0\.1:{database.port} .*password", problem)
        assert ("mysql_native_password" in problem) == (database.kind == "mysql")
        assert "not the one" not in problem

    def test_a_missing_database_is_one_clear_line(self, database: Database) -> None:
        problem = _refused(changed(database.env, DATABASE="other"))
        assert re.search(f"{database.kind} .*other .*exists", problem)

    def test_an_unknown_host_is_one_clear_line(self, database: Database) -> None:
        problem = _refused(changed(database.env, HOST="metadata-db.invalid"))
        assert "PERENNIAL_METADATA_HOST" in problem


def test_a_port_that_nobody_listens_on_is_told() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        env = changed(POD, HOST="127.0.0.1", PORT=str(unused.getsockname()[1]))
        assert "Connection refused" in refusal(env)


def _refused(env: dict[str, str]) -> str:
    """Return the message for a connection that fails."""
    from tfx.orchestration import metadata

    from kubeflow.patient_metadata import PatientMetadata

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metadata, "_MAX_INIT_RETRY", 1)  # not ten, of half a second each
        with pytest.raises(DatabaseLost) as caught, PatientMetadata(env, first_patience_s=0):
            pass
    return str(caught.value)
