from __future__ import annotations

import json
import stat
import threading
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.errors import PreconditionError
from kivactl.stack.layout import Layout
from kivactl.targets.lock import held
from kivactl.targets.register import OWN_TOKENS_LIVE, SKEW, Entry, Register, RetiredKey, locked, read_register, write_register
from kivactl.tools.clock import Clock

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
DAY = timedelta(days=1)


def entry(token_id="1a", *, ends=DAY, revoked=None, key="k1", tenant="police") -> Entry:
    return Entry(token_id, tenant, "client", NOW, None if ends is None else NOW + ends, revoked, key)


@pytest.fixture
def layout(tmp_path):
    layout = Layout(tmp_path, tmp_path / "cache")
    layout.token_register.parent.mkdir()
    return layout


def test_without_a_file_it_is_empty(layout):
    assert read_register(layout) == Register()


def test_it_is_private_and_holds_no_token(layout):
    write_register(layout, Register((entry(),), (RetiredKey("k0", NOW, None),)))
    assert stat.S_IMODE(layout.token_register.stat().st_mode) == 0o600
    data = json.loads(layout.token_register.read_text())
    assert set(data["tokens"][0]) == {"id", "tenant", "name", "issued_at", "expires_at", "revoked_at", "key"}
    assert [path.name for path in layout.token_register.parent.iterdir()] == ["register.json"]


moments = st.datetimes(datetime(2020, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  (the strategy adds the zone)
entries = st.builds(Entry, st.text(), st.text(), st.text(), moments, st.none() | moments, st.none() | moments, st.sampled_from("abc"))
keys = st.builds(RetiredKey, st.sampled_from("abc"), moments, st.none() | moments)
# The gateway knows a token by its id alone: two with the same are one to it, and none are issued.
issued = st.lists(entries, max_size=6, unique_by=lambda entry: entry.id).map(tuple)
registers = st.builds(Register, issued, st.lists(keys, max_size=3, unique_by=lambda key: key.key).map(tuple))


@given(register=registers)
def test_any_register_survives(layout, register):
    write_register(layout, register)
    assert read_register(layout) == register


@given(register=registers, now=moments, current=st.sampled_from("abcd"))
def test_what_is_tidied_away_never_costs_a_good_token(register, now, current):
    tidy = register.without_spent(current, now)
    kept = {key.key for key in tidy.keys}
    assert tidy.without_spent(current, now) == tidy
    assert current not in kept
    for token in tidy.tokens:
        retired = next((key for key in register.keys if key.key == token.key != current), None)
        if token.live(now) and retired is not None:
            assert token.key in kept
    for token in register.tokens:
        retired = next((key for key in register.keys if key.key == token.key != current), None)
        if token.live(now) and (retired is None or retired.until is None or now < retired.until):
            assert token in tidy.tokens


def test_unknown_keys_of_a_newer_version_are_left_out(layout):
    write_register(layout, Register((entry(),), (RetiredKey("k0", NOW, NOW),)))
    data = json.loads(layout.token_register.read_text())
    data["later"], data["tokens"][0]["later"], data["keys"][0]["later"] = 1, 2, 3
    layout.token_register.write_text(json.dumps(data))
    assert read_register(layout) == Register((entry(),), (RetiredKey("k0", NOW, NOW),))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", "null", '{"tokens": 1}', '{"tokens": [1]}', '{"tokens": [{"id": "x"}]}', '{"tokens": [], "keys": [{}]}', "\x00"],
)
def test_a_damaged_one_is_refused(layout, text):
    layout.token_register.write_text(text)
    with pytest.raises(PreconditionError, match=r"the register of tokens is damaged: .*register.json") as caught:
        read_register(layout)
    assert "rotate-keys --now" in caught.value.hint


def test_binary_rubbish_is_refused(layout):
    layout.token_register.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PreconditionError, match="damaged"):
        read_register(layout)


def test_a_date_that_is_none_is_refused(layout):
    write_register(layout, Register((entry(),)))
    layout.token_register.write_text(layout.token_register.read_text().replace("2026-03-04", "2026-33-04"))
    with pytest.raises(PreconditionError, match="damaged"):
        read_register(layout)


@pytest.mark.parametrize(
    ("key", "tokens", "after", "needed"),
    [
        (RetiredKey("k1", NOW, None), (), timedelta(0), True),
        (RetiredKey("k1", NOW, None), (), OWN_TOKENS_LIVE, True),
        (RetiredKey("k1", NOW, None), (), OWN_TOKENS_LIVE + SKEW, False),
        (RetiredKey("k1", NOW, None), (entry(ends=9 * DAY),), 9 * DAY, True),
        (RetiredKey("k1", NOW, None), (entry(ends=9 * DAY),), 9 * DAY + SKEW, False),
        (RetiredKey("k1", NOW, None), (entry(ends=None),), 9999 * DAY, True),
        (RetiredKey("k1", NOW, None), (entry(ends=9 * DAY, revoked=NOW),), 3 * DAY, False),
        (RetiredKey("k1", NOW, None), (entry(ends=9 * DAY, key="k2"),), 3 * DAY, False),
        (RetiredKey("k1", NOW, NOW + DAY), (entry(ends=None),), DAY, False),
        (RetiredKey("k1", NOW, NOW + 5 * DAY), (), 4 * DAY, True),
    ],
)
def test_how_long_a_retired_key_is_needed(key, tokens, after, needed):
    assert Register(tokens, (key,)).needs(key, NOW + after) is needed


def test_tokens_of_a_key_whose_time_is_over_count_as_revoked():
    register = Register((entry("1", ends=9 * DAY), entry("2", key="k2", ends=9 * DAY)), (RetiredKey("k1", NOW, NOW + DAY),))
    now = NOW + 2 * DAY
    tidy = register.without_spent("k2", now)
    assert [token.revoked_at for token in tidy.tokens] == [now, None]
    assert tidy.keys == ()


def test_a_key_that_signs_is_never_retired():
    register = Register((entry(),), (RetiredKey("k1", NOW, NOW),))  # a rotation that was killed before the keys changed
    assert register.without_spent("k1", NOW + DAY / 2) == Register((entry(),))


def test_what_ended_long_ago_is_forgotten():
    register = Register((entry("1"), entry("2", ends=None), entry("3", ends=500 * DAY)))
    assert [token.id for token in register.without_spent("k1", NOW + 402 * DAY).tokens] == ["2", "3"]


def test_a_second_revocation_keeps_the_first_time():
    register = Register((entry("1", revoked=NOW), entry("2"))).revoked(frozenset("12"), NOW + DAY)
    assert [token.revoked_at for token in register.tokens] == [NOW, NOW + DAY]


def test_many_operators_lose_nothing(layout):
    def issue(number: int) -> None:
        for step in range(10):
            with locked(layout, "issue", Clock()):
                write_register(layout, read_register(layout).with_token(entry(f"{number}-{step}")))

    threads = [threading.Thread(target=issue, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({token.id for token in read_register(layout).tokens}) == 40


def test_the_lock_is_waited_for_but_not_for_ever(layout):
    waited = []
    times = iter(range(100))
    clock = Clock(lambda: float(next(times)), waited.append)
    with (
        held(layout.token_register.parent / "lock", "token revoke"),
        pytest.raises(PreconditionError, match="'token revoke' of"),
        locked(layout, "token issue", clock),
    ):
        pass
    assert len(waited) >= 9
    with locked(layout, "token issue", Clock()):
        pass


def test_before_provisioning_there_is_no_lock(tmp_path):
    with pytest.raises(PreconditionError, match="not provisioned"), locked(Layout(tmp_path / "state", tmp_path), "token issue", Clock()):
        pass


def test_a_register_out_of_a_backup_lets_nobody_in_again_who_was_refused_since():
    def token(id_, key="k1", revoked_at=None):
        return Entry(id_, "lab", "client", NOW - timedelta(days=1), None, revoked_at, key)

    restored = Register((token("a"), token("b"), token("c", revoked_at=NOW - timedelta(hours=2))))
    later = Register((token("a"), token("b", revoked_at=NOW - timedelta(hours=1)), token("c"), token("d"), token("e", key="k2"), token("f", revoked_at=NOW)))
    merged = restored.with_history_of(later, frozenset({"k1"}), NOW)
    assert {one.id: one.revoked_at is not None for one in merged.tokens} == {"a": False, "b": True, "c": True, "d": False, "e": True, "f": True}
    assert merged.with_history_of(later, frozenset({"k1"}), NOW) == merged, "a second time nothing changes"
    assert restored.with_history_of(Register(), frozenset({"k1"}), NOW) == restored
