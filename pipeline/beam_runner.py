"""Checks of Beam's runner, before anything is read.

Beam and TensorFlow are not imported, except by `try_out`, which runs a job.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from components import storage
from pipeline import addresses
from pipeline.errors import ConfigError
from pipeline.settings.beam import BeamConfig, BeamJob

EMBEDDED = "embed"  # a job server in the process that submits the job
_PORTABLE = ("PortableRunner", "FlinkRunner", "SparkRunner")
_MASTERS = {"FlinkRunner": "flink_master", "SparkRunner": "spark_master_url"}
_DATAFLOW = ("project", "region", "temp_location")
_LOOPBACK = ("localhost", "127.0.0.1", "::1", "[::1]", "0.0.0.0")
_CONNECT_S = 5.0


def jobs(config: BeamConfig) -> Iterator[BeamJob]:
    """Yield the jobs that Beam is given, each once, named by the settings of its first node."""
    yield from {(job.runner, job.args): job for job in reversed(config.jobs.values())}.values()


def check(config: BeamConfig) -> list[str]:
    """Check the options, and that what they name answers. Returns a line for each that does.

    Raises ConfigError, which names the setting and what to do.
    """
    return [reach(job) for job in jobs(config)]


def check_options(job: BeamJob, *, pod: bool = False) -> None:
    """Check the options, without a connection. Raises ConfigError.

    pod: whether the job is submitted by a pod, which has no Java and is not reached by workers.
    """
    if job.runner in _PORTABLE:
        _check_job_server(job, pod)
        _check_environment(job, pod)
    elif job.runner == "DataflowRunner":
        missing = [f"--{name}=" for name in _DATAFLOW if not job.options.get(name)]
        if missing:
            raise _error(job, f"DataflowRunner lacks {', '.join(missing)}; add them to args")
    elif job.runner == "PrismRunner" and pod:
        raise _error(
            job,
            "PrismRunner fetches a program and starts it where the job is submitted; in a pod, "
            "name a Prism that runs: PortableRunner with --job_endpoint=HOST:8073",
        )


def _check_job_server(job: BeamJob, pod: bool) -> None:
    endpoint = job.options.get("job_endpoint", "")
    if not endpoint and job.runner == "PortableRunner":
        raise _error(job, "PortableRunner needs a job server; set --job_endpoint=HOST:PORT in args")
    if not endpoint:
        advice = (
            "run its job server yourself, and name it: PortableRunner, --job_endpoint=HOST:PORT"
        )
        if pod or shutil.which("java") is None:
            where = "a pod's image" if pod else "this machine"
            raise _error(
                job,
                f"{job.runner} without --job_endpoint starts a job server in Java, which {where} "
                f"does not have; {advice}",
            )
        return
    if endpoint == EMBEDDED and not pod:
        return
    host, port = addresses.split(endpoint)
    if not host or port is None:
        raise _error(
            job, f"--job_endpoint={endpoint} is not an address; give HOST:PORT, as in beam:8099"
        )
    if pod and host in _LOOPBACK:
        raise _error(
            job,
            f"--job_endpoint={endpoint} is the pod itself, where no job server runs; name the "
            "Service of one",
        )


def _check_environment(job: BeamJob, pod: bool) -> None:
    kind = job.options.get("environment_type", "")
    if not kind and not job.options.get("sdk_container_image"):
        raise _error(
            job,
            "without --environment_type Beam starts its own image by Docker, which lacks this "
            "project; set --environment_type=EXTERNAL and --environment_config=HOST:50000, the "
            "address of `perennial worker` as the runner reaches it",
        )
    if kind == "LOOPBACK" and pod:
        raise _error(
            job,
            "--environment_type=LOOPBACK has the runner call back into the pod, at localhost; set "
            "EXTERNAL, and run `perennial worker` beside each of the runner's machines",
        )
    value = job.options.get("environment_config", "")
    if kind == "EXTERNAL":
        host, port = addresses.split(value.removeprefix("http://"))
        if not value.startswith("{") and (not host or port is None):
            raise _error(
                job,
                "--environment_type=EXTERNAL needs --environment_config=HOST:PORT, where a "
                "`perennial worker` listens, as the runner reaches it",
            )
    if kind in ("", "DOCKER") and not (value or job.options.get("sdk_container_image")):
        raise _error(
            job,
            "--environment_type=DOCKER needs --sdk_container_image=IMAGE, one with this project "
            "and with Beam's /opt/apache/beam/boot as its entry point",
        )


def reach(job: BeamJob) -> str:
    """Check the options, and that the job server answers. Returns what was found, or "".

    Raises ConfigError.
    """
    check_options(job)
    endpoint = job.options.get("job_endpoint", "")
    if job.runner in _PORTABLE and endpoint and endpoint != EMBEDDED:
        _reach_job_server(job, endpoint)
        return f"a job server answers at {endpoint}"
    master = job.options.get(_MASTERS.get(job.runner, ""), "")
    host, port = addresses.split(master.rpartition("://")[2])
    if host and port is not None:
        _connect(job, f"--{_MASTERS[job.runner]}={master}", host, port)
        return f"{master} answers"
    if job.runner == "DataflowRunner":
        return _reach_google(job)
    return ""


def _reach_job_server(job: BeamJob, endpoint: str) -> None:
    import grpc  # every command imports this module

    host, port = addresses.split(endpoint)
    assert port is not None
    option = f"--job_endpoint={endpoint}"
    _connect(job, option, host, port)
    with grpc.insecure_channel(endpoint) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=_CONNECT_S)
        except grpc.FutureTimeoutError:
            raise _error(
                job, f"{option}: something listens there, but it is not a job server of Beam (gRPC)"
            ) from None


def _connect(job: BeamJob, option: str, host: str, port: int) -> None:
    try:
        socket.create_connection((host.strip("[]"), port), timeout=_CONNECT_S).close()
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise _error(
            job, f"{option} does not answer ({reason}); start it, or correct the address"
        ) from error


def _reach_google(job: BeamJob) -> str:
    if not _has("google.cloud.dataflow"):
        raise _error(job, "DataflowRunner is not installed; run: pip install 'apache-beam[gcp]'")
    import google.auth.exceptions

    # Else the metadata server of a machine that is none of Google's is waited for.
    before = os.environ.get("GCE_METADATA_TIMEOUT")
    os.environ.setdefault("GCE_METADATA_TIMEOUT", "1")
    try:
        google.auth.default()
    except google.auth.exceptions.DefaultCredentialsError as error:
        raise _error(
            job,
            "DataflowRunner: there are no credentials for Google Cloud; run `gcloud auth "
            "application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS",
        ) from error
    finally:
        if before is None:
            del os.environ["GCE_METADATA_TIMEOUT"]
    return "there are credentials for Google Cloud"


def _has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def check_root(beam: BeamConfig, root: str) -> None:
    """Refuse runners whose workers cannot write below the pipeline's root. Raises ConfigError.

    Nodes work on copies of what is in an object store; workers elsewhere do not have these, and
    TensorFlow and Beam themselves know gs:// and hdfs:// only.
    """
    scheme = root.partition("://")[0] if storage.is_uri(root) else ""
    for job in beam.jobs.values():
        if scheme not in ("", "gs", "hdfs") and job.is_elsewhere:
            raise _error(
                job,
                f"{job.runner} works on other machines, which cannot write to {scheme}://; set the "
                "pipeline's root to gs:// or a mounted folder, or leave Beam's runner as it is",
            )


def check_pods(config: BeamConfig) -> None:
    """Refuse what cannot work where pods submit the jobs. Raises ConfigError."""
    for job in jobs(config):
        check_options(job, pod=True)


def try_out(job: BeamJob, workspace: Path) -> str:
    """Run a small job. Returns what was found, or raises ConfigError.

    A worker has to import the same version of the project as there is here, and to read and write
    files in the workspace.
    """
    from pipeline import beam_trial

    try:
        return beam_trial.run(job.pipeline_args, workspace)
    except beam_trial.TrialError as error:
        raise _error(job, str(error)) from error


def _error(job: BeamJob, text: str) -> ConfigError:
    return ConfigError(f"{job.key}: {text}")
