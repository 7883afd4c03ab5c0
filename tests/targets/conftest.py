"""The platform of stand-ins, ended after each test."""

import pytest
from stand_in_platform import Site

from kivactl.tools.ports import free_pair


@pytest.fixture
def site(tmp_path, certificate, signing_key):
    site = Site(tmp_path, free_pair(), certificate, signing_key)
    yield site
    list(site.target.stop())
    assert site.leftovers() == []
    assert not site.layout.run.exists()
