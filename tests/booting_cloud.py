"""A cloud whose machines boot: to each one that the emulator says is running there is a real one, at its private address, until it is terminated.

Public addresses lead nowhere: the emulator gives such that belong to this host itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cloud import Cloud, name_of
from machines import Machine, Site

_LOOK_S = 0.5


class BootingCloud:
    """Boots and ends machines as the emulator tells.

    Args:
        cloud: The emulator.
        site: Where they boot.
        prepare: What is put on a machine before its first start: the image.
    """

    def __init__(self, cloud: Cloud, site: Site, prepare: Callable[[Machine], None]) -> None:
        self.cloud, self.site, self._prepare = cloud, site, prepare
        self.machines: dict[str, Machine] = {}
        self.booted: list[str] = []
        self.failed: Exception | None = None

    def follow(self, done: threading.Event) -> None:
        """Until done."""
        while not done.wait(_LOOK_S):
            try:
                self._look()
            except Exception as error:  # noqa: BLE001 - told by the test, which would wait for a machine
                self.failed = error
                return

    def stop(self) -> None:
        """End all of them."""
        for key in list(self.machines):
            self._end(key)

    def _look(self) -> None:
        ec2 = self.cloud.client()
        there = {one["InstanceId"]: one for page in ec2.describe_instances()["Reservations"] for one in page["Instances"]}
        running = {key: one for key, one in there.items() if one["State"]["Name"] == "running"}
        for key in self.machines.keys() - running.keys():
            self._end(key)
        for key, one in running.items():
            if key not in self.machines:
                self._boot(key, name_of(one), one["PrivateIpAddress"])

    def _boot(self, key: str, name: str, address: str) -> None:
        machine = self.site.machine(name, address.removeprefix(f"{self.site.net}."), disk="3g", start=False)
        self._prepare(machine)
        machine.start()
        self.machines[key] = machine
        self.booted.append(name)

    def _end(self, key: str) -> None:
        self.machines.pop(key).stop()


@contextmanager
def booting(cloud: Cloud, site: Site, prepare: Callable[[Machine], None]) -> Iterator[BootingCloud]:
    """While it is open, machines boot and end."""
    made, done = BootingCloud(cloud, site, prepare), threading.Event()
    thread = threading.Thread(target=made.follow, args=(done,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        done.set()
        thread.join()
        made.stop()
