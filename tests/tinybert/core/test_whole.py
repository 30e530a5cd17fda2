import os

import pytest
from damage import KINDS, damage

from pipeline.tinybert.core import whole


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    whole.write(path, {"step": 1})
    monkeypatch.setattr(os, "replace", lambda *paths: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        whole.write(path, {"step": 2})
    assert whole.read(path) == {"step": 1}


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Otherwise a power failure may leave a name without a content."""
    events = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: events.append("sync") or sync(number))
    monkeypatch.setattr(os, "replace", lambda *paths: events.append("name") or replace(*paths))
    whole.write(tmp_path / "state.json", {"step": 1})
    assert events == ["sync", "name", "sync"]


def test_no_file_is_no_damage(tmp_path, capsys):
    assert whole.read(tmp_path / "none.json") is None
    assert whole.sealed(tmp_path / "none.json") is None
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["marker.json", "a.bin", "b.bin"])
def test_a_damaged_file_of_those_sealed_together_is_said(tmp_path, capsys, kind, name):
    marker, files = tmp_path / "marker.json", [tmp_path / "a.bin", tmp_path / "b.bin"]
    for file in files:
        file.write_bytes(bytes(range(100)))
    whole.seal(marker, files, step=3)
    assert whole.sealed(marker)["step"] == 3
    assert damage(tmp_path / name, kind)
    assert whole.sealed(marker) is None
    assert capsys.readouterr().out.startswith(f"{tmp_path / name} is damaged and not used")
    (tmp_path / name).unlink()
    assert whole.sealed(marker) is None


def test_what_stands_in_a_marker_is_checked_whatever_it_is(tmp_path):
    for text in (b"[]", b"7", b'"a"', b"{}", b'{"content": 1, "checksum": 2}', b"\xff\xfe"):
        (tmp_path / "marker.json").write_bytes(text)
        assert whole.sealed(tmp_path / "marker.json") is None


def test_a_folder_sealed_together_may_move_and_its_files_may_grow(tmp_path):
    (tmp_path / "partial").mkdir()
    inside, outside = tmp_path / "partial" / "a.bin", tmp_path / "b.bin"
    for file in (inside, outside):
        file.write_bytes(b"abc")
    whole.seal(tmp_path / "partial" / "marker.json", [inside, outside])
    (tmp_path / "partial").rename(tmp_path / "named")
    with open(outside, "ab") as file:
        file.write(b"more")
    assert whole.sealed(tmp_path / "named" / "marker.json")


def test_what_was_committed_of_a_growing_file_is_found_again(tmp_path):
    file = whole.AppendedFile(tmp_path / "rows")
    assert (file.committed, file.size) == ({}, 0)
    file.append(b"one")
    file.commit(rows=1)
    file.append(b"two")
    file.close()
    again = whole.AppendedFile(tmp_path / "rows")
    assert again.committed == {"rows": 1}
    again.append(b"three")
    again.commit(rows=2)
    again.close()
    assert (tmp_path / "rows").read_bytes() == b"onethree"
    whole.AppendedFile(tmp_path / "rows").close()
    assert (tmp_path / "rows").read_bytes() == b"onethree"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["rows", "rows.json"])
def test_a_damaged_growing_file_begins_anew(tmp_path, capsys, kind, name):
    file = whole.AppendedFile(tmp_path / "rows")
    file.append(b"one")
    file.commit(rows=1)
    file.close()
    damage(tmp_path / name, kind)
    again = whole.AppendedFile(tmp_path / "rows")
    assert (again.committed, again.size) == ({}, 0)
    assert "is damaged and not used" in capsys.readouterr().out
    again.append(b"two")
    again.commit()
    again.close()
    assert (tmp_path / "rows").read_bytes() == b"two"
