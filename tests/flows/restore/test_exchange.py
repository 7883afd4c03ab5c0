"""The exchange of one state for another: killed at any moment, done again, there is the same end; nothing of the old one is lost before it is settled."""

from __future__ import annotations

import json
import shutil

import pytest
from backed_up import contents, full, killed, watching

from kivactl.errors import PreconditionError
from kivactl.flows.restore.exchange import before_of, give_up, go_back, note_before, place, prepare, read_exchange, settle
from kivactl.flows.restore.places import Places

RUN, OTHER, SNAPSHOT = "restore-1", "restore-2", "aa"
STAYS = {"lock": "held", "runs/restore-1/journal.jsonl": "running", "reserve": "room"}
OLD = {"tokens/key": "old", "tokens/retired/one": "old", "usage/ledger.db": "old", "usage/ledger.db-wal": "old", "journal.jsonl": "old", "shares.json": "old"}
NEW = {"tokens/key": "new", "usage/ledger.db": "new", "journal.jsonl": "new", "evidence/key": "new"}


class World:
    """A state folder and a new state that waits beside it."""

    def __init__(self, folder, old=OLD):
        self.state = folder / "state"
        self.places = Places(self.state / "backup" / "restore")
        for name, text in {**STAYS, **old}.items():
            _write(self.state / name, text)
        self.places.folder.mkdir(parents=True)
        self.build()

    def build(self, new=NEW):
        for name, text in new.items():
            _write(self.places.new / name, text)

    def exchange(self, run=RUN):
        """All of it, from wherever it was cut off."""
        exchange = read_exchange(self.places)
        if exchange is None or exchange.run != run:
            exchange = prepare(self.places, self.state, run, SNAPSHOT)
        if not exchange.placed:
            place(self.places, self.state, exchange)

    def go_back(self, run=RUN):
        return go_back(self.places, self.state, run)

    @property
    def now(self):
        """Texts of all files but the restore's own."""
        return {name: found[0].decode() for name, found in contents(self.state, "backup").items() if isinstance(found, tuple)}

    @property
    def texts(self):
        """Every text that is anywhere, the old ones with the names that they had."""
        return sorted((path.name, path.read_text()) for path in self.state.rglob("*") if path.is_file() and path.parent != self.places.folder)


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def worlds(tmp_path, prepared=lambda world: None, old=OLD):
    """The same world again and again."""
    first = World(tmp_path / "first", old)
    prepared(first)
    number = 0
    while True:
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "first", folder, symlinks=True)
        world = World.__new__(World)
        world.state, world.places = folder / "state", Places(folder / "state" / "backup" / "restore")
        yield world
        shutil.rmtree(folder)
        number += 1


def old_bytes(texts):
    return [one for one in texts if one[1] == "old"]


def test_the_new_state_is_in_place_and_the_old_one_aside(world):
    world.exchange()
    assert world.now == {**STAYS, **NEW}
    aside = {str(path.relative_to(world.places.aside(RUN))) for path in world.places.aside(RUN).rglob("*") if path.is_file()}
    assert aside == set(OLD)
    settle(world.places)
    assert world.now == {**STAYS, **NEW}
    assert not world.places.folder.exists()


def test_nothing_is_done_twice(world):
    world.exchange()
    world.state.joinpath("shares.json").write_text("made since")
    world.exchange()
    place(world.places, world.state, read_exchange(world.places))
    assert world.now == {**STAYS, **NEW, "shares.json": "made since"}


@pytest.mark.parametrize("old", [OLD, {}, {"journal.jsonl": "old"}], ids=["whole", "none", "little"])
def test_killed_at_any_moment_and_done_again(tmp_path, old):
    made = worlds(tmp_path, old=old)
    for at, world in enumerate(made):
        if not killed(at, world.exchange):
            break
        assert old_bytes(world.texts) == sorted((name.split("/")[-1], "old") for name in old), at
        exchange = read_exchange(world.places)
        if exchange is not None and not exchange.placed:
            with pytest.raises(PreconditionError, match="has not put everything in place"):
                settle(world.places)
        world.exchange()
        assert world.now == {**STAYS, **NEW}, at
    assert at > 15


def test_killed_at_any_moment_and_taken_back(tmp_path):
    for at, world in enumerate(worlds(tmp_path)):
        if not killed(at, world.exchange):
            break
        begun = read_exchange(world.places) is not None
        assert world.go_back() == begun, at
        assert world.now == {**STAYS, **OLD}, at
    world.go_back()
    assert world.now == {**STAYS, **OLD}
    assert not world.places.aside(RUN).exists()


def test_killed_while_it_is_taken_back_and_that_done_again(tmp_path):
    for at, world in enumerate(worlds(tmp_path, World.exchange)):
        if not killed(at, world.go_back):
            break
        world.go_back()
        assert world.now == {**STAYS, **OLD}, at
        assert sorted(path.name for path in world.places.folder.iterdir()) == [], at
    assert at > 10


def test_killed_while_it_is_taken_back_nothing_is_settled(tmp_path):
    """The old state lies half aside still: removing it would lose it."""
    refused = 0
    for at, world in enumerate(worlds(tmp_path, World.exchange)):
        if not killed(at, world.go_back):
            break
        half = world.now not in ({**STAYS, **NEW}, {**STAYS, **OLD})
        try:
            settle(world.places)
        except PreconditionError:
            refused += 1
        else:
            assert not half, at
            assert world.now in ({**STAYS, **NEW}, {**STAYS, **OLD}), at
    assert refused > 5


def test_killed_while_it_is_taken_back_it_goes_forward_from_the_old_state_only(tmp_path):
    for at, world in enumerate(worlds(tmp_path, World.exchange)):
        if not killed(at, world.go_back):
            break
        if read_exchange(world.places) is None:  # as `put_back` does it
            give_up(world.places, world.state, RUN)
            assert world.now == {**STAYS, **OLD}, at
            world.build()
            world.exchange()
        assert world.now == {**STAYS, **NEW}, at
        assert world.go_back()
        assert world.now == {**STAYS, **OLD}, at


def test_killed_while_it_is_settled_no_half_of_the_old_state_is_put_back(tmp_path):
    for at, world in enumerate(worlds(tmp_path, World.exchange)):
        if not killed(at, lambda world=world: settle(world.places)):
            break
        whole = old_bytes(world.texts) == sorted((name.split("/")[-1], "old") for name in OLD)
        assert world.go_back() == (whole and at == 0), at
        assert world.now == ({**STAYS, **OLD} if at == 0 else {**STAYS, **NEW}), at
    assert at > 5


def test_a_full_disk_at_any_moment_loses_nothing(tmp_path):
    for at, world in enumerate(worlds(tmp_path)):
        with watching(at, full, room=True) as calls:
            try:
                world.exchange()
            except OSError:
                assert old_bytes(world.texts) == sorted((name.split("/")[-1], "old") for name in OLD), at
        if at >= calls.count:
            break
        world.exchange()
        assert world.now == {**STAYS, **NEW}, at


def test_taking_back_needs_no_room(world):
    """A full disk is why it is taken back."""
    world.exchange()
    written = pytest.MonkeyPatch()
    for name in ("fdopen", "write"):
        written.setattr(f"os.{name}", lambda *_, **__: full())
    try:
        assert world.go_back()
    finally:
        written.undo()
    assert world.now == {**STAYS, **OLD}


def test_what_was_made_meanwhile_does_not_stay_in_the_way(world):
    exchange = prepare(world.places, world.state, RUN, SNAPSHOT)
    (world.state / "journal.jsonl").rename(world.places.aside(RUN) / "journal.jsonl")  # cut off here
    (world.state / "journal.jsonl").write_text("the run goes on")
    (world.state / "evidence").mkdir()
    place(world.places, world.state, exchange)
    assert world.now == {**STAYS, **NEW}
    assert (world.places.aside(RUN) / "journal.jsonl").read_text() == "old"


def test_where_there_was_nothing_the_new_state_stays_once_it_is_whole(tmp_path):
    world = World(tmp_path, old={})
    world.exchange()
    assert not world.go_back()
    assert world.now == {**STAYS, **NEW}


def test_where_there_was_nothing_half_of_a_new_state_goes(tmp_path):
    for at, world in enumerate(worlds(tmp_path, old={})):
        if not killed(at, world.exchange):
            break
        exchange = read_exchange(world.places)
        world.go_back()
        assert world.now == ({**STAYS, **NEW} if exchange and exchange.placed else STAYS), at


def test_only_the_run_that_replaced_it_takes_it_back(world):
    world.exchange()
    assert not world.go_back(OTHER)
    assert world.now == {**STAYS, **NEW}
    assert world.go_back()
    assert not world.go_back()
    assert world.now == {**STAYS, **OLD}


def test_what_another_run_left_half_done_is_undone_first(tmp_path):
    """Otherwise half of the old state would lie where nobody looks for it, and be removed in the end."""
    for at, world in enumerate(worlds(tmp_path)):
        if not killed(at, world.exchange):
            break
        exchange = read_exchange(world.places)
        half = exchange is not None and not exchange.placed
        assert give_up(world.places, world.state, OTHER) == (RUN if half else None), at
        if exchange and exchange.placed:
            continue
        assert world.now == {**STAYS, **OLD}, at
        world.build()
        world.exchange(OTHER)
        assert world.now == {**STAYS, **NEW}, at
        assert world.go_back(OTHER)
        assert world.now == {**STAYS, **OLD}, at


def test_what_another_run_did_to_its_end_is_what_counts_now(world):
    world.exchange()
    assert give_up(world.places, world.state, OTHER) is None
    world.build({"tokens/key": "newer"})
    world.exchange(OTHER)
    assert world.now == {**STAYS, "tokens/key": "newer"}
    assert world.go_back(OTHER)
    assert world.now == {**STAYS, **NEW}


def test_another_backup_in_the_same_run_takes_the_place_of_the_first(world):
    world.exchange()
    assert give_up(world.places, world.state, RUN) == RUN
    assert world.now == {**STAYS, **OLD}


def test_a_restore_that_is_not_done_is_not_settled(world):
    prepare(world.places, world.state, RUN, SNAPSHOT)
    with pytest.raises(PreconditionError, match=f"the run {RUN} has not put everything in place") as caught:
        settle(world.places)
    assert caught.value.hint == f"kivactl runbook resume {RUN}"
    assert world.places.new.exists()


def test_where_nothing_was_begun_there_is_nothing_to_settle_or_take_back(world):
    assert not world.go_back()
    settle(world.places)
    settle(world.places)
    assert world.now == {**STAYS, **OLD}


@pytest.mark.parametrize("content", ["", "[]", "{", "{}", '{"run": 1}', '{"run": "x", "snapshot": "a", "names": 1, "before": [], "placed": false}'])
def test_a_record_that_is_not_whole_counts_for_nothing(world, content):
    world.places.record.write_text(content)
    assert read_exchange(world.places) is None
    assert not world.go_back()
    assert world.now == {**STAYS, **OLD}


def test_links_and_empty_folders_are_exchanged_as_they_are(world):
    (world.state / "tls").symlink_to("tokens")
    (world.state / "gateway").mkdir()
    (world.places.new / "tls").mkdir()
    (world.places.new / "gateway").symlink_to("nowhere")
    world.exchange()
    assert (world.state / "tls").is_dir()
    assert (world.state / "gateway").is_symlink()
    world.go_back()
    assert (world.state / "tls").readlink().name == "tokens"
    assert list((world.state / "gateway").iterdir()) == []


def test_the_first_word_on_how_it_was_counts(world):
    assert before_of(world.places, RUN) is None
    note_before(world.places, RUN, {"running": True})
    note_before(world.places, RUN, {"running": False})
    assert before_of(world.places, RUN) == {"run": RUN, "running": True}
    assert before_of(world.places, OTHER) is None
    note_before(world.places, OTHER, {"running": False})
    assert json.loads(world.places.before.read_text()) == {"run": OTHER, "running": False}
