"""The secret by which machines join Kubernetes."""

from __future__ import annotations

from kivactl.flows.provision.nodes import keep_token


def test_a_clusters_token_is_made_once_and_ours_alone(tmp_path):
    path = tmp_path / "cluster-token"
    keep_token(path)
    token = path.read_text()
    assert len(token) == 64
    assert path.stat().st_mode & 0o777 == 0o600
    keep_token(path)
    assert path.read_text() == token
    assert list(tmp_path.iterdir()) == [path]
