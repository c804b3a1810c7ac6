"""Long work shows itself: bars in a terminal, a few lines in a log, nothing where it is turned off."""

import io
import sys
import time
from contextlib import nullcontext

import numpy as np
import pytest

from gpunet import progress, vision


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def shown(monkeypatch):
    monkeypatch.delenv("GPUNET_PROGRESS", raising=False)
    monkeypatch.setattr(progress, "_seconds", {})
    monkeypatch.setattr(progress, "_written", set())


@pytest.fixture
def clock(monkeypatch):
    """Seconds, in a list of one; work that takes long adds to it."""
    now = [0.0]
    monkeypatch.setattr(progress, "perf_counter", lambda: now[0])
    return now


@pytest.fixture
def terminal(monkeypatch):
    """Makes stderr a terminal, from within the test, since pytest sets it before each."""
    monkeypatch.setattr(progress, "BAR_DELAY", 0)

    def make():
        monkeypatch.setattr(sys, "stderr", Terminal())
        return sys.stderr

    return make


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_log_gets_lines_at_growing_distances_and_one_at_the_end(clock, capsys):
    with progress.Progress("reading images", 60, "image") as shown:
        for _ in range(60):
            clock[0] += 0.5
            shown.update()
    assert capsys.readouterr() == (
        "",
        "gpunet: reading images: 4 of 60 images in 00:02\n"
        "gpunet: reading images: 8 of 60 images in 00:04\n"
        "gpunet: reading images: 16 of 60 images in 00:08\n"
        "gpunet: reading images: 32 of 60 images in 00:16\n"
        "gpunet: reading images: 60 of 60 images in 00:30\n",
    )


def test_a_log_has_nothing_of_short_work(clock, capsys):
    for _ in progress.track(range(10), "reading images", "image"):
        clock[0] += 0.15
    assert capsys.readouterr() == ("", "")


def test_work_that_fails_has_no_last_line(clock, capsys):
    def fail():
        with progress.Progress("evaluating", unit="batch") as shown:
            clock[0] += 3
            shown.update()
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        fail()
    assert capsys.readouterr().err == "gpunet: evaluating: 1 batches in 00:03\n"


def test_bytes_are_counted_in_thousands(clock, capsys):
    with progress.Progress("downloading a.tar.gz", 170_498_071, "B") as shown:
        clock[0] += 2
        shown.update(45_000_000)
    assert capsys.readouterr().err.startswith("gpunet: downloading a.tar.gz: 45.0M of 170MB in 00:02\n")


@pytest.mark.parametrize(("items", "total"), [([1, 2, 3], None), (iter([1, 2, 3]), 3), (iter([1, 2, 3]), None)])
def test_track_gives_the_items_and_counts_them_in_a_terminal(terminal, items, total):
    screen = terminal()
    assert list(progress.track(items, "reading", "file", total)) == [1, 2, 3]
    text = screen.getvalue()
    assert "reading: " in text
    assert ("3/3" in text or "0/3" in text) == (total == 3 or isinstance(items, list))
    assert "gpunet: " not in text
    assert text.endswith("\r")  # the bar has gone


def test_bars_can_be_turned_off_alone(terminal):
    screen = terminal()
    with progress.Progress("evaluating", 3, "batch", bars=False, lines=False) as shown:
        shown.update()
    assert screen.getvalue() == ""


def test_a_log_names_work_of_one_kind_once_when_it_has_added_up(capsys, monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", 0.05)
    for name in ("a.cu", "b.cu", "c.cu", "d.cu"):
        with progress.working("compiling", name):
            time.sleep(0.03)
    error = capsys.readouterr().err
    assert error in ("gpunet: compiling: b.cu …\n", "gpunet: compiling: c.cu …\n", "gpunet: compiling: a.cu …\n")


def test_a_line_comes_while_work_that_cannot_count_is_going_on(capsys, monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", 0.01)
    with progress.working("reading a.json"):
        seen = []
        wait_for(lambda: seen.append(capsys.readouterr().err) or any(seen))
    assert "".join(seen) == "gpunet: reading a.json …\n"


def test_a_terminal_names_each_part_while_it_runs(terminal):
    screen = terminal()
    for name in ("a.cu", "b.cu"):
        with progress.working("compiling", name):
            wait_for(lambda name=name: f"compiling: {name}" in screen.getvalue())
    assert screen.getvalue().endswith("\r")


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_the_environment_turns_everything_off(clock, monkeypatch, stream):
    monkeypatch.setenv("GPUNET_PROGRESS", "0")
    monkeypatch.setattr(sys, "stderr", stream())
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    for _ in progress.track(range(3), "reading"):
        clock[0] += 5
    with progress.working("compiling"):
        time.sleep(0.01)
    progress.write_line("compiling")
    assert sys.stderr.getvalue() == ""


@pytest.mark.parametrize("stream", [None, object()])
def test_a_program_without_a_console_goes_on(clock, monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    for _ in progress.track(range(3), "reading"):
        clock[0] += 5
    progress.write_line("compiling")


def test_a_median_of_many_images_shows_itself(terminal):
    screen = terminal()
    vision.filters.median(np.zeros((4, 6, 6, 1), np.uint8))
    assert "median: " in screen.getvalue()


def test_a_filter_over_many_images_shows_itself_and_one_over_few_does_not(monkeypatch):
    named = []
    monkeypatch.setattr(vision.filters, "working", lambda what, part: named.append((what, part)) or nullcontext())
    images = np.zeros((4, 6, 6, 1), np.float32)
    vision.filters.emboss(images)
    assert named == []
    monkeypatch.setattr(vision.filters, "LONG", images.size)
    vision.filters.emboss(images)
    assert named == [("emboss", "4 images")]
