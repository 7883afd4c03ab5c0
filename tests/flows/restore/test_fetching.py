"""Which backup is taken, and that nothing of it stays when it is not good."""

from __future__ import annotations

import errno
from datetime import UTC, datetime

import pytest
from backed_up import DAY, NOW, Folders, contents, rewrite, snapshot

from kivactl.errors import CheckError, PreconditionError, UsageError
from kivactl.flows.restore.fetching import choose, fetch, mark, missing, remember
from kivactl.flows.restore.places import places_for, verified_of
from kivactl.plan import Status


@pytest.fixture
def into(deployment):
    return places_for(deployment.layout).fetched


@pytest.fixture
def get(deployment, repository, into):
    def get(platform="kiva", named=None, of=None):
        return list(fetch(of or repository, deployment.layout, into, platform=platform, named=named))

    return get


def test_the_whole_repository_is_read_before_anything_is_written(get, repository, into, tree):
    outcomes = get()
    assert repository.done == ["check False", "check True", "snapshots", "restore aa"]
    assert contents(into) == contents(tree)
    assert into.stat().st_mode & 0o777 == 0o700
    assert outcomes[-1].data["result"].items() >= {"snapshot": "aa".ljust(64, "0"), "platform": "kiva"}.items()
    assert datetime.fromisoformat(outcomes[-1].data["result"]["made_at"]) <= datetime.now(UTC)


def test_a_damaged_repository_is_not_read_any_further(get, repository, into):
    into.mkdir(parents=True)
    (into / "earlier").touch()
    repository.damaged = "a pack is missing"
    with pytest.raises(CheckError, match="a pack is missing"):
        get()
    assert repository.done == ["check False"]
    assert (into / "earlier").exists()


def test_what_an_earlier_fetch_left_is_not_mixed_in(get, into):
    into.mkdir(parents=True)
    (into / "earlier").touch()
    get()
    assert not (into / "earlier").exists()


def test_a_changed_file_is_told_and_nothing_stays(get, tree, into):
    (tree / "state" / "release.json").write_text("{}")
    with pytest.raises(CheckError, match="the backup aa000000 is damaged") as caught:
        get()
    assert caught.value.details[0].startswith("state/release.json has 2 bytes instead of")
    assert not into.exists()


def test_the_manifest_has_the_last_word_on_whose_it_is_and_of_which_format(get, tree, into):
    rewrite(tree, platform="other")
    with pytest.raises(PreconditionError, match="of the platform 'other', not of 'kiva'"):
        get()
    rewrite(tree, platform="kiva", format=0)
    with pytest.raises(PreconditionError, match="older kivactl"):
        get()
    assert not into.exists()


def test_whoever_stops_in_the_middle_leaves_nothing(deployment, repository, into):
    going = fetch(repository, deployment.layout, into, platform="kiva", named=None)
    next(one for one in going if one.message.startswith("fetching"))
    assert into.exists()
    going.close()
    assert not into.exists()


def test_a_full_disk_is_named_and_nothing_stays(get, repository, into, monkeypatch):
    def full(snapshot, into, only):
        (into / "half").touch()
        raise PreconditionError("no space left where the repository R or the fetched backup lies", "free some space, then run the same command again")

    monkeypatch.setattr(repository, "restore", full)
    with pytest.raises(PreconditionError, match=f"no space left on the disk that holds {into}") as caught:
        get()
    assert "free some space" in caught.value.hint
    assert not into.exists()
    monkeypatch.undo()
    get()
    assert into.exists()


def test_a_disk_without_room_for_even_a_folder(get, into, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.mkdir", full)
    with pytest.raises(PreconditionError, match="no space left on the disk that holds"):
        get()


def test_another_failure_of_the_backup_program_is_its_own(get, repository, monkeypatch):
    def locked(snapshot, into, only):
        raise PreconditionError("the repository is locked")

    monkeypatch.setattr(repository, "restore", locked)
    with pytest.raises(PreconditionError, match="the repository is locked"):
        get()


def test_the_newest_of_the_platform_unless_one_is_named():
    old, new, other = snapshot("aa", days=-2), snapshot("ab", days=-1), snapshot("ba", platform="other")
    assert choose([old, new, other], "kiva", None) is new
    assert choose([old, new, other], "kiva", "latest") is new
    assert choose([old, new, other], "kiva", "aa") is old
    assert choose([old, new, other], "kiva", old.id) is old
    assert choose([old, new], None, None) is new


def test_a_marked_one_is_found_by_the_name_that_it_had():
    marked = snapshot("cc", original="aa")
    assert choose([snapshot("ab"), marked], "kiva", "aa") is marked
    assert choose([snapshot("ab"), marked], "kiva", "c") is marked
    assert choose([marked], "kiva", "") is marked
    itself = snapshot("aa", original="aa")
    assert choose([itself], "kiva", "aa") is itself


@pytest.mark.parametrize(
    ("kept", "platform", "named", "error", "sentence"),
    [
        ([], "kiva", None, PreconditionError, "no backup of kivactl"),
        ([snapshot("aa", tags=())], "kiva", None, PreconditionError, "no backup of kivactl"),
        ([snapshot("aa", tags=()), snapshot("b")], "kiva", "aa", UsageError, "no backups begin with 'aa'"),
        ([snapshot("aa"), snapshot("ab")], "kiva", "a", UsageError, "2 backups begin with 'a'"),
        ([snapshot("aa"), snapshot("ba", original="aa1")], "kiva", "aa", UsageError, "2 backups begin with 'aa'"),
        ([snapshot("aa")], "kiva", "zz", UsageError, "no backups begin with 'zz'"),
        ([snapshot("aa"), snapshot("ba", platform="b")], None, None, UsageError, "backups of 2 platforms: b, kiva"),
        ([snapshot("aa", platform="b")], "kiva", None, PreconditionError, "no backup of 'kiva', but of: b"),
        ([snapshot("aa", platform="b")], "kiva", "aa", PreconditionError, "is of the platform 'b', not of 'kiva'"),
        ([snapshot("aa", number="0")], "kiva", None, PreconditionError, "older kivactl"),
        ([snapshot("aa", number="2")], "kiva", "aa", PreconditionError, "newer kivactl"),
    ],
)
def test_what_cannot_be_chosen(kept, platform, named, error, sentence):
    with pytest.raises(error, match=sentence):
        choose(kept, platform, named)


@pytest.mark.parametrize("number", ["", "one", "-1", "1.0", "²", "9" * 5000])
def test_a_tag_that_names_no_format_leaves_it_to_the_manifest(number):
    one = snapshot("aa", number=number)
    assert choose([one], "kiva", None) is one


def test_a_backup_that_was_made_with_a_clock_ahead_is_the_newest_until_then(deployment):
    ahead, now = snapshot("aa", days=30), snapshot("ab")
    assert choose([now, ahead], "kiva", None) is ahead
    assert choose([now, ahead], "kiva", "ab") is now


def test_tried_is_marked_once(repository):
    marked = mark(repository, "aa")
    assert mark(repository, marked) == marked
    assert mark(repository, "aa".ljust(64, "0")) == marked
    assert [one for one in repository.done if one.startswith("tag")] == ["tag aa verified"]


def test_a_backup_that_is_gone_cannot_be_marked():
    with pytest.raises(PreconditionError, match="no backup of kivactl"):
        mark(Folders(), "aa")


def tried(deployment, one):
    remember(deployment.layout, one.id, {"made_at": one.made_at.isoformat()})


def test_a_backup_that_was_tried_and_is_gone_is_told(deployment, get, repository):
    assert get()[1].status is Status.DONE
    tried(deployment, snapshot("bb", days=1))
    said = [one.message for one in get()]
    assert "backups that were tried are gone since: bb000000" in said
    assert not any("gone" in one.message for one in get(named="aa")), "who names one knows what is there"


def test_what_was_removed_because_it_was_old_is_not_missed(deployment):
    tried(deployment, snapshot("bb", days=-1))
    assert missing([snapshot("aa")], deployment.layout) == []
    assert missing([], deployment.layout) == ["bb".ljust(64, "0")]


def test_a_marked_one_is_not_missed(deployment):
    tried(deployment, snapshot("bb", days=1))
    assert missing([snapshot("aa"), snapshot("cc", days=1, original="bb")], deployment.layout) == []


def test_one_that_is_remembered_by_the_beginning_of_its_name_is_not_missed(deployment):
    remember(deployment.layout, "bb000000", {"made_at": (NOW + DAY).isoformat()})
    assert missing([snapshot("bb"), snapshot("aa")], deployment.layout) == []
    assert missing([snapshot("aa")], deployment.layout) == ["bb000000"]


def test_newer_backups_of_another_platform_hide_nothing(deployment, get, repository, tree):
    tried(deployment, snapshot("bb", days=1))
    repository.put(snapshot("dd", days=2, platform="other"), tree)
    repository.put(snapshot("ee", days=2, tags=()), tree)
    assert "backups that were tried are gone since: bb000000" in [one.message for one in get()]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1}', '{"a": {}}', '{"a": {"made_at": 1}}', '{"a": {"made_at": "yesterday"}}'])
def test_a_damaged_memory_of_what_was_tried_is_in_nobodys_way(deployment, content):
    verified_of(deployment.layout).parent.mkdir(exist_ok=True)
    verified_of(deployment.layout).write_text(content)
    assert missing([snapshot("aa")], deployment.layout) == []
    tried(deployment, snapshot("bb", days=1))
    assert missing([snapshot("aa")], deployment.layout) == ["bb".ljust(64, "0")]


def test_a_time_without_a_zone_is_taken_for_utc(deployment):
    remember(deployment.layout, "bb", {"made_at": (NOW + DAY).replace(tzinfo=None).isoformat()})
    assert missing([snapshot("aa")], deployment.layout) == ["bb"]


def test_what_was_tried_is_remembered_beside_what_was_before(deployment):
    tried(deployment, snapshot("aa"))
    tried(deployment, snapshot("bb"))
    assert '"aa' in verified_of(deployment.layout).read_text()
    assert '"bb' in verified_of(deployment.layout).read_text()


def test_a_full_disk_is_told_when_something_is_remembered(deployment, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(PreconditionError, match=r"no space left on the disk that holds .*verified\.json"):
        tried(deployment, snapshot("aa"))
