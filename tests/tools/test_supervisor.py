"""What supervisor says of its processes."""

import pytest

from kivactl.tools.supervisor import Supervisor, parse_state

ROW = {"name": "m-0", "statename": "RUNNING", "pid": 7, "now": 110, "start": 100, "exitstatus": 0, "spawnerr": "", "description": "pid 7, uptime 0:00:10"}


def test_a_running_process():
    state = parse_state(ROW)
    assert (state.alive, state.gone, state.uptime_s, state.reason) == (True, False, 10, "")


@pytest.mark.parametrize(
    ("statename", "gone"),
    [("STOPPED", True), ("EXITED", True), ("FATAL", True), ("BACKOFF", False)],
)
def test_a_process_that_does_not_run(statename, gone):
    state = parse_state({**ROW, "statename": statename, "pid": 0, "spawnerr": "Exited too quickly"})
    assert (state.alive, state.gone, state.reason, state.uptime_s) == (False, gone, "Exited too quickly", 0)


def test_a_clock_that_jumped_back_gives_no_negative_uptime():
    assert parse_state({**ROW, "now": 50}).uptime_s == 0


def test_a_socket_without_a_supervisor(tmp_path):
    supervisor = Supervisor(tmp_path / "supervisor.sock")
    assert not supervisor.alive()
    assert supervisor.states() == {}
