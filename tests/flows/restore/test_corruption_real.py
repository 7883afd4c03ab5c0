"""A real repository of restic, damaged in every way that a disk or a person damages files: a restore tells it before it touches anything."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from backed_up import contents, platform_in, provision

from kivactl.errors import KivaError
from kivactl.flows.backup.stage import build_stage, stage_of
from kivactl.flows.restore.fetching import OURS, VERIFIED, fetch
from kivactl.stack.layout import Layout
from kivactl.stack.secret import Secret
from kivactl.tools.restic import Restic

SEED = 20260
AT_ONCE = 200
"""restic asks for a file that it cannot read again for three quarters of a minute: it is waited for, not computed."""

WORD = Secret("a passphrase of the tests")


@pytest.fixture(scope="module")
def backed_up(tmp_path_factory):
    """A platform and a repository with one backup of it, made of several packs."""
    folder = tmp_path_factory.mktemp("corruption")
    deployment = provision(platform_in(folder / "platform"))
    repository = folder / "repository"
    restic = Restic(str(repository), WORD, folder / "cache")
    restic.make()
    for number in range(3):
        (deployment.layout.gateway / f"{number}.json").write_bytes(random.Random(number).randbytes(2000))
        build_stage(deployment)
        list(restic.backup(stage_of(deployment.layout), (OURS, "platform=kiva", "format=1")))
    restic.forget({"last": 1}, (OURS,))
    restic.tag(restic.snapshots()[-1].id, VERIFIED)
    (deployment.layout.state / "backup" / "restore" / "fetched").mkdir(parents=True)
    return deployment, repository


def damage(repository: Path, chance: random.Random) -> str:
    """Damage one file, or two; says how."""
    files = sorted(path for path in repository.rglob("*") if path.is_file())
    # One of each kind is as likely as any: most files are data.
    by_kind: dict[str, list[Path]] = {}
    for path in files:
        by_kind.setdefault(path.relative_to(repository).parts[0], []).append(path)
    path = chance.choice(by_kind[chance.choice(sorted(by_kind))])
    content = path.read_bytes()
    name = str(path.relative_to(repository))[:20]
    match chance.choice(["truncated", "flipped", "removed", "swapped"]):
        case "truncated":
            size = chance.randrange(len(content))
            written(path, content[:size])
            return f"truncated {name} to {size} of {len(content)}"
        case "flipped":
            bit = chance.randrange(8 * len(content))
            changed = bytearray(content)
            changed[bit // 8] ^= 1 << bit % 8
            written(path, bytes(changed))
            return f"flipped {name} bit {bit}"
        case "removed":
            path.unlink()
            return f"removed {name}"
        case _:
            other = chance.choice([one for one in files if one.read_bytes() != content])
            written(path, other.read_bytes())
            written(other, content)
            return f"swapped {name} {str(other.relative_to(repository))[:20]}"


def written(path: Path, content: bytes) -> None:
    path.chmod(0o600)
    path.write_bytes(content)


def told(repository: Path, layout: Layout, folder: Path, seed: str) -> tuple[str, str]:
    """Damage a copy and fetch from it: what was done, and what was said, which is empty when nothing was."""
    shutil.copytree(repository, folder / "repository")
    done = damage(folder / "repository", random.Random(seed))
    try:
        list(fetch(Restic(str(folder / "repository"), WORD, folder / "cache"), layout, folder / "fetched", platform="kiva", named=None))
    except KivaError as error:
        assert not (folder / "fetched").exists(), done
        return done, error.message
    finally:
        shutil.rmtree(folder)
    return done, ""


@pytest.mark.parametrize("cases", [pytest.param(25, marks=pytest.mark.real), pytest.param(200, marks=pytest.mark.drills)])
def test_every_damage_is_told_before_anything_is_overwritten(backed_up, tmp_path, capsys, cases):
    deployment, repository = backed_up
    before = contents(deployment.layout.state)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ways = list(pool.map(lambda number: told(repository, deployment.layout, made(tmp_path / str(number)), f"{SEED}-{number}"), range(cases)))
    silent = [done for done, said in ways if not said]
    kinds = Counter(done.partition(" ")[0] for done, _ in ways)
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    with capsys.disabled():
        print(f"\n{len(ways) - len(silent)} of {len(ways)} damaged repositories were told ({counts})")
    assert silent == []
    assert contents(deployment.layout.state) == before


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder
