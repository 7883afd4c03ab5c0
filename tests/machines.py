"""Freshly made Debian machines for tests: real systemd, real sshd, a network of their own, nothing of the host's.

A root file system is made once (mmdebstrap) and kept in the temporary folder for later sessions. Each machine is an overlay of it in
memory, booted by systemd-nspawn in a network namespace with a leg on a bridge. Machines have no way to the internet: apt reaches Debian's
archive through a small caching mirror on the bridge, which is what `mirrors.apt` is for.

What cannot be had in a container: kernel settings outside the network, kernel modules, a clock of its own.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "openssh-server",
    "python3",
    "python3-apt",
    "iproute2",
    "procps",
    "ca-certificates",
    "sudo",
    "netbase",
)
"""What a cloud's image of Debian has, or less."""

PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
    "ip": "iproute2",
    "nft": "nftables",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "unshare": "util-linux",
}

USER = "admin"
_ARCHIVE = "http://deb.debian.org"
_HIERARCHIES = ("systemd", "unified")
_CACHE = Path(tempfile.gettempdir(), f"kiva-machines-{os.getuid()}")
_CGROUPS = Path("/sys/fs/cgroup")
_BOOT_S = 60.0


def _run(*words: str | Path, check: bool = True, text: str | None = None, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(word) for word in words], input=text or "", capture_output=True, text=True, timeout=timeout, check=False)
    if check and done.returncode != 0:
        msg = f"{shlex.join(str(word) for word in words)}: {done.stderr.strip() or done.stdout.strip()}"
        raise RuntimeError(msg)
    return done


@cache
def lacking() -> str:
    """Why no machines can be made here; empty when they can."""
    if os.geteuid() != 0:
        return "only root can make machines (network namespaces, mounts, systemd-nspawn)"
    missing = sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None})
    if missing:
        return f"missing on this machine: {' '.join(missing)} (Debian's names)"
    if lost := [name for name in _HIERARCHIES if not os.access(_CGROUPS / name, os.W_OK)]:
        return f"this machine has no cgroups of its own for machines ({', '.join(lost)})"
    tried = _run("unshare", "--mount", "--net", "sh", "-c", "mount -t tmpfs none /mnt && ip link add try type bridge", check=False)
    if tried.returncode != 0:
        return f"this machine lets nobody make mounts and networks: {tried.stderr.strip()}"
    if not base_root_path().is_dir():
        try:
            urllib.request.urlopen(f"{_ARCHIVE}/debian/dists/bookworm/InRelease", timeout=30).close()
        except OSError as error:
            return f"Debian's archive, of which machines are made, is not reached: {error}"
    return ""


class _Mirror(BaseHTTPRequestHandler):
    """Debian's archive by way of a folder: each file is fetched once. Indices are fetched anew in each session."""

    fetched: dict[str, threading.Lock] = {}
    guard = threading.Lock()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        kept = _CACHE / "archive" / path.lstrip("/")
        if ".." in path:
            self.send_error(400)
            return
        with self.guard:
            lock = self.fetched.setdefault(path, threading.Lock())
            fresh = kept.exists() and (not path.endswith(("Release", "Release.gpg")) or time.time() - kept.stat().st_mtime < 6 * 3600)
        with lock:
            if not fresh and not self._fetch(path, kept):
                return
        self.send_response(200)
        self.send_header("Content-Length", str(kept.stat().st_size))
        self.end_headers()
        with kept.open("rb") as file, suppress(ConnectionError):
            shutil.copyfileobj(file, self.wfile)

    do_HEAD = do_GET

    def _fetch(self, path: str, kept: Path) -> bool:
        if kept.exists() and not path.endswith(("Release", "Release.gpg")):
            return True  # another request has just fetched it
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_name(f"{kept.name}.{threading.get_ident()}")
        try:
            with urllib.request.urlopen(_ARCHIVE + path, timeout=60) as answer, partial.open("wb") as file:
                shutil.copyfileobj(answer, file)
            partial.replace(kept)
        except urllib.error.HTTPError as error:
            self.send_error(error.code)
            return False
        except OSError as error:
            self.send_error(502, str(error)[:100])
            return False
        finally:
            partial.unlink(missing_ok=True)
        return True

    def log_message(self, *_: object) -> None:
        """Silent."""


@dataclass
class Machine:
    """One machine: booted when made, ended by `stop`."""

    site: Site
    name: str
    address: str
    folder: Path
    disk: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def root(self) -> Path:
        """Its root file system, seen from here."""
        return self.folder / "root"

    @property
    def namespace(self) -> str:
        return f"{self.site.mark}-{self.name}"

    def run(self, *words: str, check: bool = True, text: str | None = None, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """A program as root on it, past sshd."""
        leader = self._leader()
        inside = ("nsenter", "-t", leader, "-m", "-n", "-p", "-u", "-i", "-r", "-w")
        argv = (*inside, "env", "-i", "PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8")
        return _run(*argv, *words, check=check, text=text, timeout=timeout)

    def shell(self, script: str, *, check: bool = True) -> str:
        """What a shell script prints on it."""
        return self.run("sh", "-c", script, check=check).stdout.strip()

    @property
    def host_key(self) -> str:
        """Its public host key."""
        return " ".join((self.root / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()[:2])

    def start(self) -> None:
        """Boot, and wait until sshd answers."""
        for hierarchy in _HIERARCHIES:
            (_CGROUPS / hierarchy / self.namespace).mkdir(exist_ok=True)

        def enter() -> None:
            for hierarchy in _HIERARCHIES:
                (_CGROUPS / hierarchy / self.namespace / "cgroup.procs").write_text(str(os.getpid()))

        log = (self.folder / "console").open("wb")
        self.process = subprocess.Popen(
            [
                "systemd-nspawn",
                "-q",
                "--keep-unit",
                "--register=no",
                f"--machine={self.name}",
                f"--directory={self.root}",
                f"--network-namespace-path=/run/netns/{self.namespace}",
                "--capability=CAP_NET_ADMIN",
                "--resolv-conf=off",
                "--timezone=off",
                "--link-journal=no",
                "--console=pipe",
                "--boot",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=enter,
            start_new_session=True,
            env={**os.environ, "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network", "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "0"},
        )
        log.close()
        self.until_it_answers()

    def until_it_answers(self) -> None:
        """Wait for sshd."""
        deadline = time.monotonic() + _BOOT_S
        while time.monotonic() < deadline:
            if self.site.reaches(self.address, 22, banner=True):
                return
            if self.process is not None and self.process.poll() is not None:
                break
            time.sleep(0.1)
        msg = f"{self.name} did not boot: {(self.folder / 'console').read_text(errors='replace')[-2000:]}"
        raise RuntimeError(msg)

    def kill(self) -> None:
        """As if the power went."""
        for hierarchy in _HIERARCHIES:
            _kill_group(_CGROUPS / hierarchy / self.namespace)
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop_and_start(self) -> None:
        """Boot it anew."""
        self.kill()
        self.start()

    def stop(self) -> None:
        """End it and remove what it was made of."""
        self.kill()
        _clear(self.namespace, self.folder)

    def _leader(self) -> str:
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in children:
            with suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() in {"systemd", "init"}:
                    return pid
        msg = f"{self.name} has no init"
        raise RuntimeError(msg)


@dataclass
class Site:
    """A network of machines.

    Attributes:
        mark: Begins the names of all that is made.
        net: The first two numbers of its network, `10.N`.
        folder: Its files: key, overlays.
        key: The private key that lets in as `USER`.
    """

    mark: str
    net: str
    folder: Path
    base: Path
    machines: dict[str, Machine] = field(default_factory=dict)
    mirror: str = ""

    @property
    def here(self) -> str:
        """Our own address there, an operator's."""
        return f"{self.net}.255.1"

    @property
    def key(self) -> Path:
        return self.folder / "id_ed25519"

    @property
    def network(self) -> dict[str, object]:
        """It in a spec: four segments; we are the operator, clients have addresses from NET.64.0 on."""
        segments = {"gateway": 0, "engines": 16, "storage": 32, "management": 48}
        return {
            "range": f"{self.net}.0.0/16",
            "segments": {name: f"{self.net}.{third}.0/20" for name, third in segments.items()},
            "operators": [f"{self.here}/32"],
            "clients": [f"{self.net}.64.0/20"],
        }

    def machine(self, name: str, address: str, *, disk: str = "2g", start: bool = True) -> Machine:
        """Make a machine.

        Args:
            name: Up to 20 letters.
            address: The last two numbers of its address, such as `16.11`.
            disk: Size of its disk, which lies in memory.
            start: Whether to boot it.
        """
        made = Machine(self, name, f"{self.net}.{address}", self.folder / name, disk)
        self._namespace(made.namespace, made.address)
        made.folder.mkdir()
        _run("mount", "-t", "tmpfs", "-o", f"size={disk},mode=0755", "kiva-machine", made.folder)
        for part in ("upper", "work", "root"):
            (made.folder / part).mkdir()
        _run("mount", "-t", "overlay", "overlay", "-o", f"lowerdir={self.base},upperdir={made.folder}/upper,workdir={made.folder}/work", made.root)
        self._prepare(made.root, name)
        self.machines[name] = made
        if start:
            made.start()
        return made

    def client(self, name: str, address: str) -> str:
        """A namespace without a machine, in which programs of ours run; returns its name."""
        namespace = f"{self.mark}-{name}"
        self._namespace(namespace, f"{self.net}.{address}")
        return namespace

    def reaches(self, address: str, port: int, *, namespace: str = "", banner: bool = False, timeout_s: float = 2.0) -> bool:
        """Whether a TCP connection from here, or from a client's namespace, is accepted (and something is said, with `banner`)."""
        script = f"import socket,sys\ns=socket.create_connection(({address!r},{port}),{timeout_s})\ns.settimeout({timeout_s})\n" + (
            "sys.exit(0 if s.recv(1) else 1)\n" if banner else ""
        )
        into = ("ip", "netns", "exec", namespace) if namespace else ()
        return _run(*into, "python3", "-I", "-S", "-c", script, check=False).returncode == 0

    def ssh(self, machine: Machine, *command: str, namespace: str = "", options: tuple[str, ...] = (), user: str = USER) -> subprocess.CompletedProcess[str]:
        """A command by SSH with the key."""
        into = ("ip", "netns", "exec", namespace) if namespace else ()
        known = ("-F", "none", "-o", "UserKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=5")
        return _run(*into, "ssh", *known, "-i", self.key, *options, f"{user}@{machine.address}", *command, check=False)

    def _namespace(self, namespace: str, address: str) -> None:
        leg = "kv" + hashlib.sha256(namespace.encode()).hexdigest()[:10]
        _run("ip", "netns", "add", namespace)
        _run("ip", "link", "add", leg, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        _run("ip", "link", "set", leg, "master", self.mark, "up")
        _run("ip", "-n", namespace, "addr", "add", f"{address}/16", "dev", "eth0")
        _run("ip", "-n", namespace, "link", "set", "eth0", "up")
        _run("ip", "-n", namespace, "link", "set", "lo", "up")
        _run("ip", "-n", namespace, "route", "add", "default", "via", self.here)

    def _prepare(self, root: Path, name: str) -> None:
        """What a cloud's first boot does: name, host keys, a user with a key."""
        (root / "etc/hostname").write_text(f"{name}\n")
        (root / "etc/hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n")
        (root / "etc/resolv.conf").write_text("")  # the host's name servers are out of reach, and waited for
        (root / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")  # systemd-firstboot has nothing to ask then
        for old in (root / "etc/ssh").glob("ssh_host_*"):
            old.unlink()
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", root / "etc/ssh/ssh_host_ed25519_key")
        home = root / "home" / USER
        (home / ".ssh").mkdir(mode=0o700, exist_ok=True)
        (home / ".ssh/authorized_keys").write_text(self.key.with_suffix(".pub").read_text())
        for path in (home / ".ssh", home / ".ssh/authorized_keys"):
            os.chown(path, 1000, 1000)
        (root / "etc/sudoers.d/admin").write_text(f"{USER} ALL=(ALL) NOPASSWD: ALL\n")
        sources = "".join(
            f"Types: deb\nURIs: {self.mirror}/{archive}\nSuites: {suites}\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n"
            for archive, suites in (("debian", "bookworm bookworm-updates"), ("debian-security", "bookworm-security"))
        )
        (root / "etc/apt/sources.list").unlink(missing_ok=True)
        (root / "etc/apt/sources.list.d/debian.sources").write_text(sources)


def _apt_settings() -> list[str]:
    """How this host's apt judges the archive's dates: its mirror may be older than the clock allows."""
    shown = _run("apt-config", "dump").stdout.splitlines()
    return [line for line in shown if line.startswith(("Acquire::Check-Valid-Until ", "Acquire::Check-Date "))]


def base_root_path() -> Path:
    """Where the root file system lies that machines begin with."""
    return _CACHE / f"root-{hashlib.sha256(repr((PACKAGES, _apt_settings(), USER)).encode()).hexdigest()[:12]}"


def base_root() -> Path:
    """The root file system that machines begin with; made when it is not there (minutes)."""
    made = base_root_path()
    if made.is_dir():
        return made
    with tempfile.TemporaryDirectory(prefix=f"{made.name}.", dir=_CACHE, ignore_cleanup_errors=True) as folder:
        root = Path(folder, "root")
        options = [f"--aptopt={line}" for line in _apt_settings()]
        _run("mmdebstrap", "--variant=minbase", *options, f"--include={','.join(PACKAGES)}", "bookworm", root, f"{_ARCHIVE}/debian", timeout=1800)
        _run("chroot", root, "useradd", "--uid", "1000", "--create-home", "--shell", "/bin/bash", USER)
        (root / "etc/apt/apt.conf.d/90archive").write_text("".join(f"{line}\n" for line in _apt_settings()))
        root.chmod(0o755)
        with suppress(OSError):  # another session was faster
            root.rename(made)
    return made


def _kill_group(group: Path) -> None:
    """Kill all processes of a cgroup and of those below it."""
    deadline = time.monotonic() + 20
    while group.exists() and time.monotonic() < deadline:
        pids = [pid for file in [group / "cgroup.procs", *group.rglob("cgroup.procs")] for pid in file.read_text().split() if pid != "0"]
        if not pids:
            break
        for pid in pids:
            with suppress(ProcessLookupError, ValueError):
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.05)
    for folder in sorted(group.rglob("*"), reverse=True) if group.exists() else ():
        if folder.is_dir():
            with suppress(OSError):
                folder.rmdir()
    with suppress(OSError):
        group.rmdir()


def _clear(namespace: str, folder: Path) -> None:
    """Remove a machine's mounts, cgroups, namespace and files."""
    for hierarchy in _HIERARCHIES:
        _kill_group(_CGROUPS / hierarchy / namespace)
    _run("umount", "-q", "-R", "-l", folder, check=False)
    _run("ip", "netns", "delete", namespace, check=False)
    shutil.rmtree(folder, ignore_errors=True)


def clear_stale() -> None:
    """Remove what sessions left behind that were killed: by the process id in every name."""
    with _alone():
        for site in _CACHE.glob("kvs*"):
            owner = site.name.removeprefix("kvs")
            if not owner.isdigit() or not Path("/proc", owner).exists():
                _clear_site(site.name, site)


@contextmanager
def _alone() -> Iterator[None]:
    """While no other session does the same."""
    with (_CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _clear_site(mark: str, folder: Path) -> None:
    for hierarchy in _HIERARCHIES:
        for group in (_CGROUPS / hierarchy).glob(f"{mark}-*"):
            _kill_group(group)
    for namespace in Path("/run/netns").glob(f"{mark}-*"):
        _clear(namespace.name, folder / namespace.name.removeprefix(f"{mark}-"))
    _run("ip", "link", "delete", mark, check=False)
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def open_site() -> Iterator[Site]:
    """A network for machines; all that is made in it is gone at the end."""
    _CACHE.mkdir(mode=0o700, exist_ok=True)
    if _CACHE.stat().st_uid != os.getuid():
        msg = f"{_CACHE} belongs to another user"
        raise RuntimeError(msg)
    clear_stale()
    mark = f"kvs{os.getpid()}"
    folder = _CACHE / mark
    folder.mkdir(mode=0o755)
    server: ThreadingHTTPServer | None = None
    try:
        base = base_root()
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", folder / "id_ed25519")
        with _alone():  # two sessions must not take the same network
            taken = _run("ip", "-4", "addr").stdout
            number = next(number for number in range(100, 250) if f"inet 10.{number}." not in taken)
            site = Site(mark, f"10.{number}", folder, base)
            _run("ip", "link", "add", mark, "type", "bridge")
            _run("ip", "addr", "add", f"{site.here}/16", "dev", mark)
            _run("ip", "link", "set", mark, "up")
        server = ThreadingHTTPServer((site.here, 0), _Mirror)
        threading.Thread(target=server.serve_forever, name="archive", daemon=True).start()
        site.mirror = f"http://{site.here}:{server.server_port}"
        yield site
    finally:
        if server is not None:
            server.shutdown()
            server.server_close()
        _clear_site(mark, folder)


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """A network for machines, for the session."""
    if reason := lacking():
        pytest.skip(reason)
    with open_site() as made:
        yield made
