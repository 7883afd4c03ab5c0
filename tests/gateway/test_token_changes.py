"""Revocations and key rotations on a running gateway: in force within two seconds, and nobody else notices."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from kivactl.flows import rotation, tokens
from kivactl.flows.deployment import Deployment, endpoint_for
from kivactl.spec.load import Loaded
from kivactl.targets import publication
from kivactl.targets.register import read_register, write_register

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def serving(start_gateway) -> Iterator[tuple]:
    gateway = start_gateway()
    layout = gateway.layout
    layout.signing_key.parent.mkdir(mode=0o700)
    layout.signing_key.write_bytes(gateway.signing_key)
    loaded = Loaded(gateway.platform, (), Path(layout.state.parent), "digest")
    deployment = Deployment(loaded, layout, lambda: loaded)
    publication.publish(gateway.platform, layout)
    yield gateway, deployment
    gateway.stop()


def _issue(deployment, tenant="police", name="client"):
    token, entry = tokens.issue(deployment, tenant, name=name, lifetime=timedelta(days=1))
    return token.reveal(), entry.id


def _own_token(deployment) -> str:
    """What kivactl issues to itself, unregistered."""
    return endpoint_for(deployment).token.reveal()


def _status(gateway, token: str) -> int:
    with gateway.connect() as connection:
        body = b'{"model": "m", "messages": []}'
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("authorization", f"Bearer {token}")]
        connection.send(gateway.head(headers=headers, tenant=None) + body)
        answer = connection.answer()
        assert answer is not None
        if answer.status != 200:
            answer.refuses(answer.status)
        return answer.status


class Asking(threading.Thread):
    """Someone with a good token, who asks all the time."""

    def __init__(self, gateway, token: str) -> None:
        super().__init__()
        self.gateway, self.token, self.done, self.seen = gateway, token, threading.Event(), []
        self.start()

    def run(self) -> None:
        while not self.done.is_set():
            self.seen.append(_status(self.gateway, self.token))

    def statuses(self) -> set[int]:
        self.gateway.until(lambda: len(self.seen) > 5 or not self.is_alive())
        self.done.set()
        self.join()
        return set(self.seen)


def test_a_revoked_token_is_refused_when_the_command_ends_and_the_others_are_not(serving):
    gateway, deployment = serving
    (bad, bad_id), (good, _) = _issue(deployment, name="lost laptop"), _issue(deployment)
    assert [_status(gateway, token) for token in (bad, good)] == [200, 200]
    other = Asking(gateway, good)
    try:
        outcomes = list(tokens.apply_revoke(deployment, frozenset({bad_id})))
        assert [_status(gateway, bad) for _ in range(20)] == [401] * 20
    finally:
        assert other.statuses() == {200}
    assert outcomes[-1].message == "1 token revoked, the gateway refuses them"


def test_a_stream_that_began_before_is_not_cut(serving):
    gateway, deployment = serving
    token, token_id = _issue(deployment)
    with gateway.connect() as connection:
        body = b'{"model": "m", "messages": []}'
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("authorization", f"Bearer {token}")]
        connection.send(gateway.head(headers=headers, tenant=None) + body[:-1])
        list(tokens.apply_revoke(deployment, frozenset({token_id})))
        connection.send(body[-1:])
        answer = connection.answer()
        assert answer is not None
        assert answer.status == 200


def test_rotations_under_load_fail_nothing(serving):
    gateway, deployment = serving
    old, _ = _issue(deployment)
    own = _own_token(deployment)
    other = Asking(gateway, old)
    try:
        for _ in range(5):
            list(rotation.apply_rotation(deployment))
            fresh, _ = _issue(deployment)
            assert _status(gateway, fresh) == 200  # at once, by the new key
    finally:
        assert other.statuses() == {200}
    assert _status(gateway, own) == 200


def test_a_key_known_to_others_is_worth_nothing_at_once(serving):
    gateway, deployment = serving
    (one, _), own = _issue(deployment), _own_token(deployment)
    list(rotation.apply_rotation(deployment))
    (two, _) = _issue(deployment)
    outcomes = list(rotation.apply_rotation(deployment, at_once=True))
    assert outcomes[-1].data["invalid"] >= 2
    assert [_status(gateway, token) for token in (one, two, own)] == [401] * 3
    assert _status(gateway, _issue(deployment)[0]) == 200
    assert list(deployment.layout.retired_keys.iterdir()) == []


def test_a_deploy_and_a_token_command_write_the_same(serving):
    gateway, deployment = serving
    _, token_id = _issue(deployment)
    list(tokens.apply_revoke(deployment, frozenset({token_id})))
    list(rotation.apply_rotation(deployment))
    assert publication.unpublished(gateway.platform, gateway.layout) == []
    assert publication.publish(gateway.platform, gateway.layout) is False


def test_the_gateway_accepts_thousands_of_revocations(serving):
    gateway, deployment = serving
    _, live_id = _issue(deployment)
    register = read_register(gateway.layout)
    live = next(token for token in register.tokens if token.id == live_id)
    many = tuple(replace(live, id=f"{number:016x}", revoked_at=live.issued_at) for number in range(5_000))
    write_register(gateway.layout, replace(register, tokens=(*register.tokens, *many)))
    token, token_id = _issue(deployment)
    assert _status(gateway, token) == 200
    started_s = time.monotonic()
    list(tokens.apply_revoke(deployment, frozenset({token_id})))
    print(f"revoked among thousands within {time.monotonic() - started_s:.2f} s")
    assert _status(gateway, token) == 401
