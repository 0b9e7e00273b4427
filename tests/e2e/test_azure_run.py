"""The DAG on Azure's blob storage: data, what nodes write and pushed models are in a container.

The nodes run in this process, and not in pods as on Kubeflow. Each of them has a folder for copies
of its own, as on machines that share nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components import storage
from components.lineage import Lineage
from components.storage import staging
from components.storage.content import MANIFEST
from tests.kit import azure
from tests.kit.bucket_site import SETTINGS, Site

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore:label\\(\\) is deprecated"),
    pytest.mark.skipif(not azure.has_azurite(), reason="azurite-blob is not in PATH; make azurite"),
]

DATA, ROOT, PUSHED = azure.uri("photos"), azure.uri("runs"), azure.uri("models", "digits")


@pytest.fixture
def site(tmp_path: Path, few_digits: Callable[..., Path]) -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch, azure.azurite(tmp_path / "azure", patch):
        storage.copy_tree(str(few_digits("014")), f"{DATA}/1")
        settings = {**SETTINGS, "data.source": f"{DATA}/{{SPAN}}", "push.directory": PUSHED}
        yield Site(settings, ROOT, tmp_path)


def test_a_model_is_trained_judged_and_pushed_and_then_all_is_cached(site: Site) -> None:
    first = site.run("first")
    assert {result.state for result in first.values()} == {"complete", "resolved"}
    pushed = first["Pusher"].outputs["pushed_model"][0]
    assert pushed.get_string_custom_property("pushed_destination") == f"{PUSHED}/1"
    assert storage.exists(f"{PUSHED}/1/saved_model.pb")
    for artifact in Lineage.at(site.connection).artifacts():
        assert artifact.uri.startswith(f"{ROOT}/")
        files = staging.manifest_of(artifact.uri).files
        assert storage.exists(f"{artifact.uri}{MANIFEST}")
        assert {name: file.size for name, file in files.items()} == storage.files(artifact.uri)
    site.run("second")  # of which the Evaluator has another baseline
    again = site.run("third")
    assert {result.state for result in again.values()} == {"cached", "resolved"}
    assert [name for name in storage.names(PUSHED) if name.isdecimal()] == ["1"]
