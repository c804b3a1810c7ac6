"""Files that are written whole: what a failed or killed write leaves, and the older versions beside the new one."""

import os
import resource
import stat

import pytest

from gpunet import files
from gpunet.files import previous, remove_leftovers, versions, whole_folder, write_whole


@pytest.fixture
def path(tmp_path):
    return tmp_path / "last.safetensors"


def contents(path):
    """What each file of the folder holds, by name."""
    return {found.name: found.read_bytes() for found in path.parent.iterdir()}


def test_parts_are_written_one_after_another(path):
    write_whole(path, (bytes([n]) * n for n in range(4)))
    assert path.read_bytes() == b"\x01\x02\x02\x03\x03\x03"
    write_whole(path, [memoryview(b"ab"), b"", bytearray(b"c")])
    assert contents(path) == {"last.safetensors": b"abc"}


def test_the_file_and_then_its_folder_reach_the_disk(path, monkeypatch):
    flushed, fsync = [], os.fsync

    def record(number):
        kind = "folder" if stat.S_ISDIR(os.fstat(number).st_mode) else "file"
        flushed.append((kind, path.exists()))
        fsync(number)

    monkeypatch.setattr(os, "fsync", record)
    write_whole(path, b"new")
    assert flushed == [("file", False), ("folder", True)]


# ---- older versions


@pytest.mark.parametrize("keep", [1, 2, 3, 4])
def test_so_many_versions_are_kept_as_are_asked_for(path, keep):
    for n in range(6):
        write_whole(path, b"%d" % n, keep=keep)
        want = [b"%d" % m for m in range(n, max(n - keep, -1), -1)]
        assert [found.read_bytes() for found in versions(path)] == want
        assert len(contents(path)) == len(want)
    assert previous(path, 2) == path.with_name("last-2.safetensors")


@pytest.mark.parametrize("links", [True, False])
def test_without_hard_links_versions_are_the_same(path, monkeypatch, links):
    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    for n in range(4):
        write_whole(path, b"%d" % n, keep=3)
    assert contents(path) == {"last.safetensors": b"3", "last-1.safetensors": b"2", "last-2.safetensors": b"1"}


def test_the_file_is_there_between_all_renamings(path, monkeypatch):
    replace, seen = os.replace, []

    def checked(source, target):
        seen.append(path.read_bytes())
        replace(source, target)
        seen.append(path.read_bytes())

    for n in range(3):
        write_whole(path, b"%d" % n, keep=3)
    monkeypatch.setattr(os, "replace", checked)
    write_whole(path, b"3", keep=3)
    assert seen == [b"2"] * 5 + [b"3"]


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("at", range(4))
def test_whatever_renaming_fails_leaves_a_whole_file_and_nothing_aside(path, monkeypatch, at, links):
    replace, calls = os.replace, iter(range(100))

    def fail(source, target):
        if next(calls) == at:
            raise OSError(5, "Input/output error")
        replace(source, target)

    for n in range(3):
        write_whole(path, b"%d" % n, keep=3)
    monkeypatch.setattr(os, "replace", fail)
    if not links:
        monkeypatch.delattr(os, "link")
    try:
        write_whole(path, b"new", keep=3)
    except OSError:
        assert path.read_bytes() == b"2"
        assert at < 3
    else:
        assert at == 3
        assert path.read_bytes() == b"new"
    monkeypatch.undo()
    assert {found.read_bytes() for found in versions(path)} >= {b"1", path.read_bytes()}
    write_whole(path, b"again", keep=3)
    kept = [found.read_bytes() for found in versions(path)]
    assert kept[0] == b"again"
    assert not {name for name in contents(path) if name.startswith(".")}
    assert kept[1] == (b"new" if at == 3 else b"2")


def test_a_process_killed_between_two_renamings_loses_no_version(path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(written, target):
        raise Killed

    for n in range(3):
        write_whole(path, b"%d" % n, keep=4)
    replace, calls = os.replace, iter(range(100))
    monkeypatch.setattr(os, "replace", lambda a, b: replace(a, b) if next(calls) < 3 else killed(a, b))
    with pytest.raises(Killed):
        write_whole(path, b"lost", keep=4)
    monkeypatch.undo()
    assert path.samefile(previous(path, 1))  # the last version has both names now
    write_whole(path, b"3", keep=4)
    assert [found.read_bytes() for found in versions(path)] == [b"3", b"2", b"1", b"0"]


def test_a_number_that_is_missing_among_the_versions_is_filled_and_nothing_falls_away(path):
    path.write_bytes(b"3")
    previous(path, 2).write_bytes(b"1")
    assert versions(path) == [path, previous(path, 2)]
    write_whole(path, b"4", keep=3)
    assert [found.read_bytes() for found in versions(path)] == [b"4", b"3", b"1"]
    previous(path, 9).write_bytes(b"another file")
    assert len(versions(path)) == 3


def test_keeping_fewer_leaves_older_versions_alone(path):
    for n in range(3):
        write_whole(path, b"%d" % n, keep=3)
    write_whole(path, b"3")
    assert [found.read_bytes() for found in versions(path)] == [b"3", b"1", b"0"]
    with pytest.raises(ValueError, match="keep is 0 but must be at least 1"):
        write_whole(path, b"", keep=0)


def test_a_link_stays_and_versions_lie_beside_the_file_that_it_leads_to(tmp_path):
    link, target = tmp_path / "link.bin", tmp_path / "there" / "target.bin"
    target.parent.mkdir()
    link.symlink_to(target)
    for content in (b"0", b"1"):
        write_whole(link, content, keep=2)
    assert link.is_symlink()
    assert versions(link) == versions(target) == [target, target.with_name("target-1.bin")]


# ---- leftovers


def test_leftovers_of_this_file_alone_are_removed(path):
    write_whole(path, b"good", keep=2)
    digits = "0123456789abcdef"
    leftover = path.with_name(f".{path.name}.{digits}")
    others = [
        path.with_name(name)
        for name in (
            f".{path.name}.{digits.upper()}", f".{path.name}.{digits}0", f".{path.name}.{digits[1:]}",
            f".other{path.name}.{digits}", f"{path.name}.{digits}", f".lastXsafetensors.{digits}", path.name + ".txt",
        )
    ]  # fmt: skip
    for file in (leftover, *others):
        file.write_bytes(b"part")
    folder = path.with_name(f".{path.name}.{digits[::-1]}")
    folder.mkdir()
    remove_leftovers(path)
    assert {found for found in path.parent.iterdir() if found.is_file()} == {path, *others}
    remove_leftovers(path.parent / "no folder" / "file")


def test_what_a_killed_write_leaves_has_the_name_that_is_cleared(path, monkeypatch):
    monkeypatch.setattr(files.Path, "unlink", lambda *_, **__: None)  # as if the process had ended
    monkeypatch.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, b"part")
    monkeypatch.undo()
    assert list(contents(path).values()) == [b"part"]
    remove_leftovers(path)
    assert contents(path) == {}


# ---- errors


@pytest.fixture
def file_size_limit():
    """At most 100 bytes in a file that this process writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_beyond_the_size_limit_raises_the_same_error_with_the_name(path, file_size_limit):
    write_whole(path, b"good")
    with pytest.raises(OSError, match="too large; the file there is as it was: '.*last.safetensors'$") as caught:
        write_whole(path, b"x" * 101, keep=2)
    assert caught.value.errno == 27
    assert "\n" not in str(caught.value)
    assert contents(path) == {"last.safetensors": b"good"}


def test_a_disk_that_fails_at_the_end_raises_the_same_error_with_the_name(path, monkeypatch):
    write_whole(path, b"good")
    monkeypatch.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(OSError, match="Input/output error; the file there is as it was: .*last.safetensors"):
        write_whole(path, b"new", keep=2)
    assert contents(path) == {"last.safetensors": b"good"}


def test_a_folder_that_cannot_be_flushed_says_that_the_new_file_is_there(path, monkeypatch):
    fsync, number = os.fsync, 5

    def fail(file):
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(number, "it failed")
        fsync(file)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="it failed; the new file is there, but may not survive a power cut: .*last"):
        write_whole(path, b"new")
    assert contents(path) == {"last.safetensors": b"new"}
    number = 22  # EINVAL: this kind of disk flushes no folders
    write_whole(path, b"newer")
    monkeypatch.setattr(os, "open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "no folders are opened")))
    write_whole(path, b"newest")
    assert contents(path) == {"last.safetensors": b"newest"}


def test_where_no_file_was_there_the_error_speaks_of_none(path, file_size_limit):
    with pytest.raises(OSError, match="too large: '.*last.safetensors'$"):
        write_whole(path, b"x" * 101)
    assert contents(path) == {}


def test_a_folder_in_its_place_and_a_file_in_place_of_its_folder_are_named(tmp_path):
    with pytest.raises(IsADirectoryError, match=f"directory: '{tmp_path}'"):
        write_whole(tmp_path, b"")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=r"\[Errno \d+\] [\w ]+: '.*file/below'"):
        write_whole(tmp_path / "file" / "below", b"")


def test_a_pipe_is_written_in_place():
    reading, writing = os.pipe()
    write_whole(f"/dev/fd/{writing}", [b"a", b"b"])
    assert os.read(reading, 10) == b"ab"
    for end in (reading, writing):
        os.close(end)


# ---- folders


def test_a_folder_is_complete_or_not_there(tmp_path):
    target = tmp_path / "deep" / "made"
    with whole_folder(target) as aside:
        (aside / "inner").mkdir()
        (aside / "inner" / "a").write_bytes(b"a")
        assert not target.exists()
    assert (target / "inner" / "a").read_bytes() == b"a"

    def stop():
        with whole_folder(tmp_path / "deep" / "other") as aside:
            (aside / "b").write_bytes(b"b")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert os.listdir(tmp_path / "deep") == ["made"]


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_a_folder_replaces_nothing(tmp_path, early, kind):
    target = tmp_path / "made"

    def appear():
        if kind == "file":
            target.write_bytes(b"there")
        elif kind == "folder":
            target.mkdir()
            (target / "a").write_bytes(b"there")
        else:
            target.symlink_to("nowhere")

    def make():
        with whole_folder(target) as aside:
            (aside / "a").write_bytes(b"new")
            appear()

    if early:
        appear()
    with pytest.raises(OSError, match="made"):
        make()
    assert os.listdir(tmp_path) == ["made"]
    assert kind == "link" or (target / "a" if kind == "folder" else target).read_bytes() == b"there"
