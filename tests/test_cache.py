"""Where compiled code and data are kept when there is no home folder, or none that can be written to."""

import os
import stat
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest

from gpunet import cache

SYSTEMS = tempfile.gettempdir()
unix = pytest.mark.skipif(not hasattr(os, "getuid"), reason="this system has no user numbers")


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """A temporary folder of the test's own, and nothing in the environment."""
    for name in ("GPUNET_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    cache._temporary.cache_clear()
    yield
    cache._temporary.cache_clear()


def unwritable(tmp_path, monkeypatch):
    """A folder that this process cannot write to, not even as root: a file stands in its way."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GPUNET_CACHE", str(tmp_path / "file" / "cache"))


def unknown_user(tmp_path, monkeypatch):
    """No HOME, and a user number that the system has no entry for."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as it does then


@unix
@pytest.mark.parametrize("trouble", [unwritable, unknown_user])
def test_a_temporary_folder_is_used_with_one_warning(tmp_path, monkeypatch, trouble):
    monkeypatch.chdir(tmp_path)
    trouble(tmp_path, monkeypatch)
    before = set(tmp_path.iterdir())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kept = cache.keep("things", "a.txt", lambda path: path.write_text("made"))
        again = cache.keep("things", "a.txt", lambda path: path.write_text("made again"))
        cache.folder("others")
    assert [warning.category for warning in caught] == [RuntimeWarning]
    assert "is used instead; GPUNET_CACHE can name another" in str(caught[0].message)
    assert kept == again
    assert kept.read_text() == "made"
    assert (tmp_path / "temporary") in kept.parents
    assert not stat.S_IMODE(kept.parents[1].stat().st_mode) & 0o077
    assert set(tmp_path.iterdir()) == before


@unix
def test_a_folder_within_that_cannot_be_written_to_is_left_too(tmp_path, monkeypatch):
    monkeypatch.setenv("GPUNET_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "things").write_text("")  # root too cannot write to this one
    with pytest.warns(RuntimeWarning, match="things cannot be written to") as caught:
        kept = cache.keep("things", "a.txt", lambda path: path.write_text("made"))
    assert len(caught) == 1
    assert cache.keep("things", "a.txt", lambda path: path.write_text("made again")) == kept  # and no second warning
    assert kept.read_text() == "made"
    assert (tmp_path / "temporary") in kept.parents
    assert cache.folder("others") == tmp_path / "cache" / "others"


@unix
@pytest.mark.parametrize("planted", ["open to all", "link", "file"])
def test_a_temporary_folder_that_others_could_have_made_is_not_used(tmp_path, monkeypatch, planted):
    unwritable(tmp_path, monkeypatch)
    path = tmp_path / "temporary" / f"gpunet-{os.getuid()}"
    if planted == "open to all":
        path.mkdir()
        path.chmod(0o777)
    elif planted == "link":
        (tmp_path / "theirs").mkdir()
        path.symlink_to(tmp_path / "theirs")
    else:
        path.write_text("")
    with pytest.warns(RuntimeWarning, match="is used instead"):
        folder = cache.folder("things")
    assert path not in folder.parents


def test_what_a_folder_holds_is_taken_where_nothing_can_be_added(tmp_path, monkeypatch):
    monkeypatch.setenv("GPUNET_CACHE", str(tmp_path / "cache"))
    kept = cache.keep("things", "a.txt", lambda path: path.write_text("made"))
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / "cache")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.keep("things", "a.txt", lambda path: path.write_text("made again")) == kept
    with pytest.warns(RuntimeWarning, match="cannot be written to"):
        other = cache.keep("things", "b.txt", lambda path: path.write_text("made"))
    assert (tmp_path / "temporary") in other.parents


@unix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become an unknown user")
def test_a_process_of_an_unknown_user_without_home_computes():
    """As in a container that runs under any number."""
    code = (
        "import os, numpy; import gpunet as gp; from gpunet import cache; x = gp.tensor([1.0], backend='numpy')\n"
        "os.setgid(65531); os.setuid(65531); os.environ.pop('HOME', None)\n"
        "print(cache.folder('things'), (x * 2).numpy())"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "GPUNET_CACHE", "XDG_CACHE_HOME")}
    with tempfile.TemporaryDirectory(dir=SYSTEMS) as folder:
        os.chmod(folder, 0o777)
        environment["TMPDIR"] = folder
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=folder, capture_output=True, text=True, timeout=60
        )
        assert os.listdir(folder) == ["gpunet-65531"]
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(os.path.join(folder, "gpunet-65531"))
    assert done.stderr.count("is used instead") == 1
