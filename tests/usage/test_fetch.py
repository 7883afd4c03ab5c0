"""Fetching: whatever is killed, restarted, set aside, cut short or made up, the meter's folder gets each line once."""

from __future__ import annotations

import http.server
import json
import os
import tempfile
import threading
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
from cluster_specs import model, platform_on_cluster
from generated import examples
from hypothesis import given
from hypothesis import strategies as st
from usage_lines import NOON_S, append, count_line, orders

from kivactl.errors import PreconditionError
from kivactl.stack.kubernetes.gateway_values import gateway_values_for
from kivactl.stack.kubernetes.names import ENGINE_PORT, all_replicas_host
from kivactl.usage import copies, serve
from kivactl.usage.copies import ENDED, Copies
from kivactl.usage.fetch import Fetcher, World, ask
from kivactl.usage.meter import Meter
from kivactl.usage.meter import World as MetersWorld
from kivactl.usage.serve import Answer, Files

SERVICE = "kiva-chat-all.kiva.svc"


class Killed(BaseException):
    """The process is no more."""


class Engine:
    """What an engine writes and serves; `restart` gives the address to another one."""

    def __init__(self, folder: Path):
        self.folder, self.number, self.written = folder, 0, []
        self.restart()

    def restart(self):
        self.number += 1
        self.record = self.folder / f"{self.number}" / "usage.jsonl"
        self.record.parent.mkdir(parents=True)
        self.files = Files(self.record, f"chat-{self.number}", piece_bytes=700)

    def count(self, lines=1):
        for _ in range(lines):
            line = count_line(f"{self.folder.name}-{len(self.written)}")
            self.written.append(line)
            append(self.record, line)

    def set_aside(self):
        if self.record.exists():
            serve.set_aside(self.record)


class Site:
    """Engines, a name service, and what fetches from them into a folder."""

    def __init__(self, folder: Path, engines=1):
        self.path, self.folder = folder / "meter.json", folder / "usage"
        self.path.write_text(json.dumps(orders(folder, engines=[SERVICE])))
        self.engines = {f"10.0.0.{number}": Engine(folder / f"engine{number}") for number in range(engines)}
        self.now_s, self.events, self.named, self.silent = 0.0, [], list(self.engines), set()
        self.garbage, self.most_bytes = None, 2**30
        self.start()

    def start(self):
        self.fetcher = Fetcher(
            self.path, World(lambda: self.now_s, lambda line: self.events.append(json.loads(line)), self.resolved, self.ask, self.most_bytes)
        )

    def restart(self):
        self.fetcher.close()
        self.start()

    def resolved(self, host):
        assert host == SERVICE
        return self.named

    def ask(self, address, port, file, start):
        assert port == 8000
        if address in self.silent or address not in self.engines:
            raise ConnectionRefusedError(111, "Connection refused")
        return self.garbage if self.garbage is not None else self.engines[address].files.answer(file, start)

    def round(self, seconds=2.0):
        self.now_s += seconds
        self.fetcher.run_round()

    def texts(self):
        """Everything in the folder, whether it still grows or not."""
        return [path.read_text() for path in sorted(self.folder.glob("*.jsonl*"))]

    def fetched(self):
        return Counter(line for text in self.texts() for line in text.splitlines(keepends=True))

    def written(self):
        return Counter(line for engine in self.engines.values() for line in engine.written)

    def told(self, event):
        return [told["what"] for told in self.events if told["event"] == event]


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path, engines=2)
    yield site
    site.fetcher.close()


def test_what_is_new_comes_each_round(site):
    site.round()
    assert site.texts() == []
    for engine in site.engines.values():
        engine.count(9)
    site.round()
    site.engines["10.0.0.1"].count(2)
    site.round()
    assert site.fetched() == site.written()
    assert len(site.texts()) == 2


def test_a_file_set_aside_is_read_to_its_end_and_ended(site):
    engine = site.engines["10.0.0.0"]
    engine.count(3)
    site.round()
    engine.count(3)
    engine.set_aside()
    engine.count(2)
    site.round()
    assert site.fetched() == site.written()
    assert len(list(site.folder.glob(f"*{ENDED}"))) == 1


def test_another_engine_at_the_same_address(site):
    engine = site.engines["10.0.0.0"]
    engine.count(5)
    site.round()
    engine.restart()
    engine.count(2)
    site.round()
    assert site.fetched() == site.written()
    assert len(list(site.folder.glob(f"*{ENDED}"))) == 1


def test_an_engine_that_leaves_the_name_service_is_asked_until_it_is_gone(site):
    site.round()
    site.named = ["10.0.0.1"]
    site.engines["10.0.0.0"].count(4)
    site.round(120)
    assert site.fetched() == site.written()
    site.silent = {"10.0.0.0"}
    site.round(2)
    assert list(site.folder.glob(f"*{ENDED}")) == []
    for _ in range(40):
        site.round(2)
    assert len(list(site.folder.glob(f"*{ENDED}"))) == 1
    assert list(json.loads((site.folder / "fetch.json").read_text())["reads"]) == []
    assert site.told("trouble") == []


def test_a_silent_name_service_changes_nothing(site):
    site.round()
    site.named = None
    site.engines["10.0.0.0"].count(4)
    site.round(300)
    site.named = ["10.0.0.0", "10.0.0.1"]
    site.round()
    assert site.fetched() == site.written()
    assert (site.told("trouble"), site.told("recovered")) == ([SERVICE], [SERVICE])


def test_trouble_is_said_once(site):
    site.silent = {"10.0.0.0"}
    for _ in range(3):
        site.round()
    site.silent = set()
    site.round()
    assert (site.told("trouble"), site.told("recovered")) == (["10.0.0.0:8000"], ["10.0.0.0:8000"])


@pytest.mark.parametrize(
    "answer",
    [
        Answer("../../etc/passwd", 0, b"x\n"),
        Answer("", 0, b"x\n"),
        Answer("a" * 400, 0, b"x\n"),
        Answer(".hidden", 0, b"x\n"),
        Answer("chat-0-abc", 0, b"no end of a line"),
        Answer("chat-0-abc\n", 0, b"x\n"),
    ],
)
def test_garbage_is_not_kept(site, answer):
    site.garbage = answer
    site.round()
    assert site.texts() == []
    assert len(site.told("trouble")) == 2
    site.garbage = None
    site.engines["10.0.0.0"].count(1)
    site.round()
    assert site.fetched() == site.written()


def test_a_made_up_place_is_not_taken(site):
    site.engines["10.0.0.0"].count(1)
    site.round()
    before = site.texts()
    site.garbage = Answer(site.fetcher._copies.place("10.0.0.0:8000")[0], 7, b"x\n")
    site.round()
    assert site.texts() == before


def test_what_the_engines_disk_lost_makes_another_file(site):
    engine = site.engines["10.0.0.0"]
    engine.count(4)
    site.round()
    with engine.record.open("r+") as file:
        file.truncate(len(engine.written[0]))
    append(engine.record, count_line("after"))
    site.round()
    assert site.fetched() == site.written() + Counter([engine.written[0], count_line("after")])


def test_a_copy_that_is_ended_takes_no_other_ones_place(site, monkeypatch):
    monkeypatch.setattr(copies.time, "time_ns", lambda: 10**18)
    engine, lost = site.engines["10.0.0.0"], Counter()
    engine.count(1)
    for number in range(3):
        append(engine.record, count_line(f"lost-{number}"))
        lost += Counter([engine.written[0], count_line(f"lost-{number}")])
        site.round()
        with engine.record.open("r+") as file:
            file.truncate(len(engine.written[0]))
        site.round()
    assert site.fetched() == lost + Counter(engine.written)


def test_nothing_is_fetched_while_the_meter_is_far_behind(site):
    site.fetcher.close()
    site.most_bytes = 1000
    site.start()
    for engine in site.engines.values():
        engine.count(40)
    site.round()
    before = site.texts()
    assert 1000 < sum(map(len, before)) < 1000 + 2 * 700
    site.round()
    assert (site.texts(), site.told("trouble")) == (before, ["disk"])
    site.most_bytes = 2**20
    site.restart()
    site.round()
    assert site.fetched() == site.written()


def test_a_full_disk_keeps_no_half_lines(site, monkeypatch):
    site.engines["10.0.0.0"].count(3)
    monkeypatch.setattr(copies.os, "write", _fails_after(60))
    site.round()
    assert [text for text in site.texts() if text] == []
    assert site.told("trouble") == ["10.0.0.0:8000"]
    monkeypatch.undo()
    site.round()
    assert site.fetched() == site.written()


def _fails_after(size):
    real, left = os.write, [size]

    def write(descriptor, data):
        if left[0] <= 0:
            raise OSError(28, "No space left on device")
        done = real(descriptor, bytes(data)[: left[0]])
        left[0] -= done
        return done

    return write


@pytest.mark.parametrize("state", ["", "[]", '{"reads": 3}', '{"reads": {"10.0.0.0:8000": "../x"}}', '{"reads": {"10.0.0.0:8000": 5}}'])
def test_without_its_list_it_finds_its_place_again(site, state):
    engine = site.engines["10.0.0.0"]
    engine.count(3)
    engine.set_aside()
    engine.count(5)
    site.round()
    (site.folder / "fetch.json").write_text(state)
    for path in site.folder.glob(f"*{ENDED}"):  # as if it had not been ended yet
        path.rename(path.with_name(path.name.split(".jsonl")[0] + ".jsonl"))
    site.restart()
    engine.count(1)
    site.silent = {"10.0.0.0"}
    site.round()
    site.silent = set()
    site.round()
    assert site.fetched() == site.written()


def test_half_a_line_is_cut_off_at_the_start(site):
    engine = site.engines["10.0.0.0"]
    engine.count(3)
    site.round()
    (copy,) = site.folder.glob("*.jsonl")
    append(copy, "half a line")
    site.restart()
    engine.count(1)
    site.round()
    assert site.fetched() == site.written()


def test_two_addresses_of_one_engine(tmp_path):
    site = Site(tmp_path, engines=1)
    engine = site.engines["10.0.0.0"]
    site.engines["fd00::1"] = engine
    site.named = ["10.0.0.0", "fd00::1"]
    for _ in range(5):
        engine.count(7)
        site.round()
    engine.set_aside()
    engine.count(7)
    site.round()
    site.fetcher.close()
    assert site.fetched() == Counter(engine.written)


def test_only_one_fetches_into_a_folder(site):
    with pytest.raises(PreconditionError, match="another one fetches"):
        Fetcher(site.path)


def test_orders_that_are_none(tmp_path):
    with pytest.raises(PreconditionError, match="not possible"):
        Fetcher(tmp_path / "meter.json")


def test_new_orders_count_from_the_next_round(site):
    site.engines["10.0.0.0"].count(1)
    site.path.write_text("{")
    site.round()
    assert (site.fetched(), site.told("trouble")) == (site.written(), ["orders"])
    site.path.write_text(json.dumps(orders(site.path.parent, engines=[])))
    for _ in range(2):
        site.silent = set(site.engines)
        site.round(100)
    assert site.fetcher._copies.readers() == []


def test_by_the_orders_in_the_charts_values_it_asks_for_every_model(tmp_path):
    names = ["qwen", "llama.3", "a-" + "long-" * 10 + "name"]
    spec = platform_on_cluster(*(model(name) for name in names))
    path, resolved, asked = tmp_path / "meter.json", [], set()
    path.write_text(json.dumps(json.loads(gateway_values_for(spec, jwks={"keys": []})["meter"]["orders"]) | {"usage_folder": str(tmp_path / "usage")}))

    def resolve(host):
        resolved.append(host)
        return [f"10.0.0.{len(resolved)}"]

    def answer(address, port, file, start):
        asked.add((address, port))
        return Answer("", 0, b"")

    fetcher = Fetcher(path, World(say=lambda _: None, resolved=resolve, ask=answer))
    fetcher.run_round()
    fetcher.close()
    assert sorted(resolved) == sorted(all_replicas_host(spec, name) for name in names)
    assert asked == {(f"10.0.0.{number}", ENGINE_PORT) for number in (1, 2, 3)}


class Deadly:
    """Lets a process die at one of its writes, renames, truncations; a write may be half done by then."""

    NAMES = ("write", "rename", "replace", "ftruncate", "open")

    def __init__(self, at, half):
        self.left, self.half = at, half

    @contextmanager
    def around(self):
        real = {name: getattr(os, name) for name in self.NAMES}

        def dying(name):
            def call(*args, **kwargs):
                self.left -= 1
                if self.left < 0:
                    raise Killed
                if self.left == 0:
                    if name == "write" and self.half:
                        real[name](args[0], bytes(args[1])[: len(args[1]) // 2])
                    elif not self.half:
                        real[name](*args, **kwargs)
                    raise Killed
                return real[name](*args, **kwargs)

            return call

        with pytest.MonkeyPatch.context() as patch:
            for name in self.NAMES:
                patch.setattr(os, name, dying(name))
            yield


STEPS = st.one_of(
    st.tuples(st.just("count"), st.integers(0, 2), st.integers(1, 6)),
    st.tuples(st.just("aside"), st.integers(0, 2)),
    st.tuples(st.just("another"), st.integers(0, 2)),
    st.tuples(st.just("silent"), st.sets(st.integers(0, 2))),
    st.tuples(st.just("round"), st.sampled_from([2.0, 2.0, 90.0])),
    st.tuples(st.just("restart")),
    st.tuples(st.just("killed"), st.integers(1, 12), st.booleans()),
    st.tuples(st.just("meter")),
)


@examples(1.5)
@given(st.lists(STEPS, max_size=30))
def test_each_line_once_whatever_happens(steps):
    with tempfile.TemporaryDirectory() as folder:
        site, entered = Site(Path(folder), engines=3), Counter()
        for step in steps:
            match step:
                case "count", number, lines:
                    site.engines[f"10.0.0.{number}"].count(lines)
                case "aside", number:
                    site.silent = set()
                    site.round()  # no more than KEPT_ASIDE files behind
                    site.engines[f"10.0.0.{number}"].set_aside()
                case "another", number:
                    site.silent = set()
                    site.round()  # what nobody has fetched goes with a pod
                    site.engines[f"10.0.0.{number}"].restart()
                case "silent", numbers:
                    site.silent = {f"10.0.0.{number}" for number in numbers}
                case "round", seconds:
                    site.round(seconds)
                case ("restart",):
                    site.restart()
                case "killed", at, half:
                    killed_in_a_round(site, at, half)
                case ("meter",):  # has entered everything, and deletes what has ended
                    for path in site.folder.glob(f"*{ENDED}"):
                        entered.update(path.read_text().splitlines(keepends=True))
                        path.unlink()
        site.silent = set()
        site.round()
        site.round()
        site.fetcher.close()
        assert site.fetched() + entered == site.written()


def killed_in_a_round(site, at, half):
    try:
        with Deadly(at, half).around():
            site.round()
    except Killed:
        pass
    os.close(site.fetcher._lock)  # as the system does for a dead process
    site.fetcher._pool.shutdown()
    site.start()


# Together with the meter.


def test_the_meter_enters_what_was_fetched_and_deletes_what_has_ended(site):
    engine = site.engines["10.0.0.0"]
    meter = Meter(site.path, MetersWorld(lambda: NOON_S, lambda _: None, reopen_logs=lambda _: True))
    engine.count(4)
    site.round()
    meter.run_pass()
    engine.restart()
    engine.count(2)
    site.round()
    (ended,) = site.folder.glob(f"*{ENDED}")
    meter.run_pass()
    meter.run_pass()
    assert not ended.exists()
    site.round()
    meter.run_pass()
    meter.close()
    ledger = MetersWorld().open_ledger(f"sqlite:{site.path.parent}/usage/ledger.db", "kiva")
    total = [sums for _, sums in ledger.days()]
    positions = ledger.positions()
    ledger.close()
    assert [(sums.completion_tokens, sums.prompt_tokens) for sums in total] == [(60, 600)]
    assert len(positions) == 1


# Over HTTP.


@contextmanager
def answering(respond):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            respond(self)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def responding(status=200, body=b"x\n", **headers):
    def respond(handler):
        handler.send_response(status)
        for name, value in {"content-length": str(len(body)), serve.FILE: "m-0-1", serve.FROM: "5", **headers}.items():
            if value is not None:
                handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return respond


def test_an_answer_over_http():
    asked = []

    def respond(handler):
        asked.append(handler.path)
        responding()(handler)

    with answering(respond) as port:
        assert ask("127.0.0.1", port, "m-0-1", 5) == Answer("m-0-1", 5, b"x\n")
    assert asked == ["/kiva/usage?file=m-0-1&from=5"]


@pytest.mark.parametrize(
    ("respond", "error"),
    [
        (responding(404), ValueError),
        (responding(**{"content-length": None}), ValueError),
        (responding(**{"content-length": str(2**30)}), ValueError),
        (responding(**{"content-length": "many"}), ValueError),
        (responding(**{serve.FILE: None}), ValueError),
        (responding(**{serve.FROM: "x"}), ValueError),
        (responding(**{"content-length": "400"}), OSError),
        (lambda handler: handler.wfile.write(b"no HTTP at all\r\n\r\n"), ValueError),
        (lambda handler: None, (OSError, ValueError)),
    ],
)
def test_what_is_no_answer(respond, error):
    with answering(respond) as port, pytest.raises(error):
        ask("127.0.0.1", port, "m-0-1", 5)


def test_nobody_listens():
    with pytest.raises(OSError, match="refused"):
        ask("127.0.0.1", 1, "", 0)


def test_copies_need_a_folder(tmp_path):
    (tmp_path / "usage").write_text("a file")
    with pytest.raises(OSError):
        Copies(tmp_path / "usage")
