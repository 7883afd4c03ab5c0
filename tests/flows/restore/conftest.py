"""What the tests of this folder share: a small platform and a backup of it."""

from __future__ import annotations

import pytest
from backed_up import Folders, platform_in, provision, snapshot, tree_of

from kivactl.flows.restore.places import places_for


@pytest.fixture
def deployment(tmp_path):
    """A provisioned platform."""
    return provision(platform_in(tmp_path / "platform"))


@pytest.fixture
def tree(deployment, tmp_path):
    """A backup of it."""
    return tree_of(deployment, tmp_path / "tree")


@pytest.fixture
def repository(tree):
    """A repository with that backup, `aa`."""
    folders = Folders()
    folders.put(snapshot("aa"), tree)
    return folders


@pytest.fixture
def places(deployment):
    places = places_for(deployment.layout)
    places.folder.mkdir(parents=True)
    return places


@pytest.fixture(autouse=True)
def _fast_disk(monkeypatch):
    """A killed process is no power failure: what it wrote is there without waiting for the disk."""
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture
def nothing_runs(monkeypatch):
    """Looking through all processes of the machine takes the most time of what is done hundreds of times."""
    monkeypatch.setattr("kivactl.tools.leftovers.marked", lambda *_: [])
