"""Every line once, whatever happens to the files."""

from __future__ import annotations

import os
import shutil

import pytest
from chosen_inodes import Inodes
from hypothesis import given
from hypothesis import strategies as st
from usage_lines import append

from kivactl.usage import follow
from kivactl.usage.follow import Follower, Source
from kivactl.usage.ledger import Position


@pytest.fixture
def log(tmp_path):
    return tmp_path / "access.log"


class Reader:
    """A follower that writes down its positions as the ledger does, and can be started anew with them."""

    def __init__(self, folder, name="access.log", **options):
        self.source, self.options, self.positions = Source(folder, name), options, {}
        self.follower = Follower([self.source], **options)

    def lines(self, *, accept=True):
        """All that is new."""
        found = []
        while True:
            pieces = self.follower.read()
            gone = self.follower.gone()
            found += [line for piece in pieces for line in piece.lines]
            if not accept:
                return found
            self.positions |= {(piece.source, piece.position.inode): piece.position for piece in pieces}
            for position in gone:
                self.positions.pop((position.source, position.inode), None)
            self.follower.accept(pieces)
            self.follower.forget(gone)
            if not any(piece.more for piece in pieces):
                return found

    def restart(self):
        self.follower.close()
        self.follower = Follower([self.source], self.positions.values(), **self.options)


@pytest.fixture
def reader(tmp_path):
    reader = Reader(tmp_path)
    yield reader
    reader.follower.close()


def test_what_is_appended_is_read_once(log, reader):
    assert reader.lines() == []
    append(log, "a\nb\n")
    assert reader.lines() == ["a", "b"]
    assert reader.lines() == []
    append(log, "c\n")
    assert reader.lines() == ["c"]


def test_a_missing_folder_is_no_trouble(tmp_path):
    reader = Reader(tmp_path / "later")
    assert reader.lines() == []
    (tmp_path / "later").mkdir()
    append(tmp_path / "later/access.log", "a\n")
    assert reader.lines() == ["a"]


def test_half_a_line_waits_for_its_end(log, reader):
    append(log, "a\nhal")
    assert reader.lines() == ["a"]
    assert reader.lines() == []
    append(log, "f\n")
    assert reader.lines() == ["half"]


def test_what_was_not_accepted_is_read_again(log, reader):
    append(log, "a\n")
    assert reader.lines(accept=False) == ["a"]
    assert reader.lines() == ["a"]


def test_a_restart_goes_on_where_it_was(log, reader):
    append(log, "a\n", "b")
    reader.lines()
    reader.restart()
    append(log, "\nc\n")
    assert reader.lines() == ["b", "c"]


def test_a_rotation_between_two_looks(log, reader):
    append(log, "a\n")
    reader.lines()
    append(log, "b\n")
    log.rename(log.with_name("access.log.1"))
    append(log, "c\n")
    assert sorted(reader.lines()) == ["b", "c"]


def test_a_rotation_while_it_did_not_run(log, reader):
    append(log, "a\n")
    reader.lines()
    reader.follower.close()
    append(log, "b\n")
    log.rename(log.with_name("access.log.1"))
    log.with_name("access.log.1").rename(log.with_name("access.log.2"))
    append(log, "c\n")
    reader.restart()
    assert sorted(reader.lines()) == ["b", "c"]


def test_the_old_file_is_read_to_the_end_though_its_name_is_gone(log, reader):
    append(log, "a\n")
    reader.lines()
    append(log, "b\n")
    log.unlink()
    append(log, "c\n")
    assert sorted(reader.lines()) == ["b", "c"]
    assert reader.lines() == []
    assert len(reader.positions) == 1


def test_a_writer_that_goes_on_with_the_renamed_file(log, reader):
    with log.open("a") as writer:
        writer.write("a\n")
        writer.flush()
        reader.lines()
        assert reader.follower.set_aside(0, 1) == [str(log)]
        assert reader.follower.missing(str(log))
        writer.write("b\n")
        writer.flush()
        assert reader.lines() == ["b"]
    append(log, "c\n")
    assert not reader.follower.missing(str(log))
    assert reader.lines() == ["c"]


@pytest.mark.parametrize("after", ["c\n", "cccc\n", "cccccccccccccccccccccccc\nd\n"])
def test_a_log_that_was_cut_off_is_read_from_its_beginning(log, reader, after):
    append(log, "aaaa\nbbbb\n")
    reader.lines()
    log.write_text(after)
    assert reader.lines() == after.splitlines()


def test_a_log_that_was_emptied_and_an_empty_log(log, reader):
    append(log, "a\n")
    reader.lines()
    log.write_text("")
    assert reader.lines() == []
    append(log, "b\n")
    assert reader.lines() == ["b"]


def test_an_inode_used_again_is_another_file(log, reader):
    append(log, "aaaa\n" * 10)
    reader.lines()
    (key,) = reader.positions
    reader.follower.close()
    log.unlink()
    append(log, "bbbb\n" * 20)
    # The file system may or may not have used the inode again; to the reader it seems so.
    position = reader.positions.pop(key)
    inode = log.stat().st_ino
    reader.positions[(key[0], inode)] = type(position)(position.source, inode, position.read_bytes, position.head)
    reader.restart()
    assert reader.lines() == ["bbbb"] * 20


@pytest.fixture
def inodes(monkeypatch):
    return Inodes(monkeypatch)


def first_line(number, size_bytes):
    """Lines of the same moment: all the same but for the end, where the gateway writes a request's id."""
    return f"{'same ' * 160}{number}".ljust(size_bytes, ".") + "\n"


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "started anew"])
@pytest.mark.parametrize("size_bytes", [900, 1500], ids=["as long", "longer"])
def test_the_inode_of_a_file_set_aside_and_deleted_is_used_again(log, reader, inodes, restarted, size_bytes):
    append(log, first_line(1, 900))
    inodes.give(log, 7)
    reader.lines()
    reader.follower.set_aside(0, 1)
    append(log, "x\n")
    inodes.give(log, 8)
    reader.lines()
    reader.lines()  # lets go of what is set aside and read
    reader.follower.drop_old(0)
    log.rename(log.with_name("access.log.2"))
    append(log, first_line(2, size_bytes), "b\n")
    inodes.give(log, 7)
    if restarted:
        reader.restart()
    assert reader.lines() == [first_line(2, size_bytes)[:-1], "b"]


def test_half_a_line_of_a_deleted_file_hides_no_file_of_the_same_inode_and_size(log, reader, inodes):
    append(log, "half")
    inodes.give(log, 7)
    reader.lines()
    log.rename(log.with_name("access.log.1"))
    append(log, "a\n")
    inodes.give(log, 8)
    reader.lines()
    reader.lines()
    reader.follower.drop_old(0)
    log.rename(log.with_name("access.log.2"))
    append(log, "bcd\n")
    inodes.give(log, 7)
    assert reader.lines() == ["bcd"]


def test_a_log_written_over_to_the_same_size_is_read(log, reader):
    append(log, "aaaa\n")
    reader.lines()
    log.write_text("bbbb\n")
    assert reader.lines() == ["bbbb"]


def test_positions_with_a_shorter_beginning_stay_good(log, reader):
    append(log, *(f"{number}\n" for number in range(1000)))
    reader.lines()
    ((key, known),) = reader.positions.items()
    with log.open("rb") as file:
        reader.positions[key] = Position(known.source, known.inode, known.read_bytes, follow._head(file.fileno(), 256))
    reader.restart()
    append(log, "new\n")
    assert reader.lines() == ["new"]
    assert reader.positions[key].head.startswith("1024:")


def test_an_unread_file_in_place_of_one_that_is_read_is_not_deleted(log, reader):
    append(log, "aaaa\n" * 3)
    reader.lines()
    reader.follower.set_aside(0, 1)
    append(log, "b\n")
    reader.lines()
    log.rename(log.with_name("access.log.1"))
    append(log, "c\n")
    reader.follower.drop_old(0)
    assert reader.lines() == ["c"]
    assert log.with_name("access.log.1").read_text() == "b\n"


def test_no_file_is_set_aside_in_place_of_another_and_none_before_it(log, reader):
    for number in range(4):
        append(log, f"{number}\n")
        reader.lines()
        reader.follower.set_aside(0, 100 - number // 2)  # twice the same, then earlier
    assert {path.name: path.read_text() for path in log.parent.iterdir()} == {f"access.log.{100 + number}": f"{number}\n" for number in range(4)}


def test_a_log_deleted_under_its_writer_is_read_until_there_is_a_new_one(log, reader):
    with log.open("a") as writer:
        writer.write("a\n")
        writer.flush()
        reader.lines()
        log.unlink()
        reader.lines()
        assert reader.follower.missing(str(log))
        writer.write("b\n")
        writer.flush()
        assert reader.lines() == ["b"]
    append(log, "c\n")
    assert reader.lines() == ["c"]
    assert not reader.follower.missing(str(log))
    reader.lines()
    assert len(reader.positions) == 1


def test_what_was_entered_to_its_end_and_deleted_is_not_read_again_when_the_ledgers_answer_is_lost(log, reader):
    append(log, "a\n")
    reader.lines()
    log.unlink()
    append(log, "b\n")
    reader.lines(accept=False)
    reader.follower.rewind([])  # the ledger has forgotten the first one; nobody was told
    assert reader.lines() == ["b"]


def test_bytes_that_are_no_text(log, reader):
    log.write_bytes(b"\xff\xfe\n\x00\na\n")
    assert reader.lines() == ["\ufffd\ufffd", "\x00", "a"]


def test_a_line_without_an_end_does_not_stop_it(tmp_path, log):
    reader = Reader(tmp_path, chunk_bytes=100)
    append(log, "x" * 350 + "\n", "a\n")
    lines = reader.lines()
    assert lines[-1] == "a"
    assert "".join(lines[:-1]) == "x" * 350
    reader.follower.close()


def test_more_than_fits_at_once(tmp_path, log):
    reader = Reader(tmp_path, chunk_bytes=64)
    lines = [f"line {number}" for number in range(500)]
    append(log, *(line + "\n" for line in lines))
    assert reader.lines() == lines
    reader.follower.close()


def test_several_logs_by_their_ending(tmp_path):
    reader = Reader(tmp_path, "*.jsonl")
    for name, line in {"m-0.jsonl": "a", "m-1.jsonl": "b", "m-0.jsonl.17": "c", "ledger.db": "x", ".jsonl": "x", "m.jsonl.gz": "x", "m.jsonlx": "x"}.items():
        append(tmp_path / name, f"{line}\n")
    assert sorted(reader.lines()) == ["a", "b", "c"]
    assert {source for source, _ in reader.positions} == {f"{tmp_path}/m-0.jsonl", f"{tmp_path}/m-1.jsonl"}
    reader.follower.close()


def test_packed_rotations_are_left_alone(log, reader):
    append(log.with_name("access.log.1.gz"), "x\n")
    append(log.with_name("access.logs"), "x\n")
    log.with_name("access.log.folder").mkdir()
    assert reader.lines() == []


def test_the_oldest_files_set_aside_go_once_they_are_read(log, reader):
    for number in range(4):
        append(log, f"{number}\n")
        reader.lines()
        reader.follower.set_aside(0, 100 + number)
    append(log, "new\n")
    append(log.with_name("access.log.100"), "late\n")
    reader.follower.drop_old(2)
    assert {path.name for path in log.parent.iterdir()} == {"access.log", "access.log.100", "access.log.102", "access.log.103"}
    assert sorted(reader.lines()) == ["late", "new"]
    reader.follower.drop_old(2)
    assert {path.name for path in log.parent.iterdir()} == {"access.log", "access.log.102", "access.log.103"}
    reader.lines()
    assert len(reader.positions) == 3


def test_half_a_line_at_the_end_keeps_no_file_for_ever(log, reader):
    append(log, "a\nhal")
    reader.lines()
    reader.follower.set_aside(0, 1)
    append(log, "b\n")
    reader.lines()
    reader.follower.drop_old(0)
    assert [path.name for path in log.parent.iterdir()] == ["access.log"]


def test_nothing_is_deleted_while_nobody_writes_a_new_log(log, reader):
    append(log, "a\n")
    reader.lines()
    reader.follower.set_aside(0, 1)
    reader.follower.drop_old(0)
    assert log.with_name("access.log.1").exists()


KINDS = ["write", "write", "half", "rotate", "rotate by copy", "read", "read in vain", "restart", "rewind", "aside", "drop", "drop"]
STEPS = st.lists(st.sampled_from(KINDS), max_size=40)


@given(STEPS)
def test_every_line_once_whatever_happens(tmp_path_factory, steps):
    with pytest.MonkeyPatch.context() as patch:
        every_line_once(tmp_path_factory.mktemp("logs"), steps, Inodes(patch))


def every_line_once(folder, steps, inodes):
    log, reader, written, seen = folder / "access.log", Reader(folder, chunk_bytes=48), [], []

    def write(*lines):
        begun = not log.exists()
        append(log, *lines)
        if begun:
            inodes.give_smallest(log, reader.follower)

    for number, step in enumerate(steps):
        match step:
            case "write":
                written += [f"{number}-{line}" for line in range(5)]
                write(*(f"{number}-{line}\n" for line in range(5)))
            case "half":
                written.append(f"{number}-half")
                write(f"{number}-ha")
                seen += reader.lines()
                write("lf\n")
            case "aside":
                reader.follower.set_aside(0, number)
            case "drop":
                reader.follower.drop_old(0)
            case "rotate" if log.exists():
                reader.lines(accept=False)
                log.rename(folder / f"access.log.{number}")
            case "rotate by copy" if log.exists():
                seen += reader.lines()
                os.truncate(log, 0)
                reader.lines()
            case "read":
                seen += reader.lines()
            case "read in vain":
                reader.lines(accept=False)
            case "restart":
                reader.restart()
            case "rewind":
                reader.lines(accept=False)
                reader.follower.rewind(reader.positions.values())
    seen += reader.lines()
    reader.follower.close()
    shutil.rmtree(folder)
    assert sorted(seen) == sorted(written)
