"""The gateway's image, built for real and run as a pod runs it: user 1000, a read-only root, no capabilities."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.real, pytest.mark.alone]

BUILD = Path(__file__).parents[2] / "images/build"
NEEDED = ("buildah", "mmdebstrap", "unshare", "setpriv")

INSIDE = """
set -e
root=$1; shift
mount --bind "$root" "$root"; mount -o remount,ro,bind "$root"
mount -t proc proc "$root/proc"; mount -t tmpfs tmpfs "$root/tmp"
restricted="--reuid 1000 --regid 1000 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all"
exec chroot "$root" setpriv $restricted env -i PATH=/usr/local/bin:/usr/bin:/bin "$@"
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """Its configuration and its root."""
    missing = [program for program in NEEDED if shutil.which(program) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"building an image by chroot needs root and {', '.join(NEEDED)}; missing here: {', '.join(missing) or 'root'}")
    store = tmp_path_factory.mktemp("store")
    flags = ["--storage-driver", "vfs", "--root", store / "storage", "--runroot", store / "run"]

    def buildah(*words):
        return subprocess.run(["buildah", *flags, *words], capture_output=True, text=True, timeout=120, check=True).stdout.strip()

    try:
        done = subprocess.run(
            [BUILD, "--store", store, "gateway"], env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True, timeout=540, check=False
        )
        assert done.returncode == 0, done.stderr
        name = done.stdout.split()[0]
        container = buildah("from", "--pull-never", name)
        yield json.loads(buildah("inspect", "--type", "image", name))["OCIv1"]["config"], Path(buildah("mount", container))
    finally:
        subprocess.run(["buildah", *flags, "rm", "--all"], capture_output=True, timeout=120, check=False)
        shutil.rmtree(store)


def inside(root, *words):
    return subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", INSIDE, "inside", root, *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_what_it_is(image):
    config, _ = image
    assert (config["User"], config["Entrypoint"]) == ("1000:1000", ["/usr/local/bin/envoy"])
    assert set(config["ExposedPorts"]) == {"4000/tcp", "4001/tcp"}
    assert config["Labels"]["org.opencontainers.image.title"] == "kiva gateway"
    assert len(config["Labels"]["org.opencontainers.image.revision"]) == 40


def test_envoy_runs(image):
    done = inside(image[1], "envoy", "--version")
    assert (done.returncode, "/1.40.0/" in done.stdout) == (0, True), done.stderr


def test_a_configuration_is_read_and_nothing_is_written(image):
    done = inside(image[1], "envoy", "--mode", "validate", "--config-yaml", "admin: {address: {pipe: {path: /tmp/a.sock}}}")
    assert (done.returncode, "OK" in done.stdout + done.stderr) == (0, True), done.stderr
    assert inside(image[1], "touch", "/usr/local/bin/x").returncode != 0


def test_who_it_is(image):
    assert inside(image[1], "id").stdout.strip() == "uid=1000(kiva) gid=1000(kiva) groups=1000(kiva)"


def test_what_holds_the_pods_end_finds_no_gateway_and_lets_it_go(image):
    done = inside(image[1], "drain", "5")
    assert (done.returncode, "no gateway" in done.stderr) == (0, True)


def test_what_a_pod_calls_is_there(image):
    assert inside(image[1], "sleep", "0").returncode == 0
    assert inside(image[1], "cat", "/opt/kiva/packages.txt").stdout == (BUILD.parent / "gateway/requirements.txt").read_text()


def test_nothing_gives_more_rights_and_nothing_is_the_users(image):
    _, root = image
    files = [path for path in root.rglob("*") if not path.is_symlink() and path.is_file()]
    assert [path for path in files if path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID)] == []
    assert [path for path in files if path.stat().st_uid == 1000] == []
    assert [path for path in files if path.stat().st_mode & stat.S_IWOTH] == []
