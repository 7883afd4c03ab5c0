"""The platform of stand-ins, ended after each test."""

import socket

import pytest
from stand_in_platform import Site


@pytest.fixture
def site(tmp_path, certificate, signing_key):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    site = Site(tmp_path, port, certificate, signing_key)
    yield site
    list(site.target.stop())
    assert site.leftovers() == []
    assert not site.layout.run.exists()
