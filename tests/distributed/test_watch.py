"""The watch of the ranks, with all of them in one process."""

import socket
import threading
import time

import pytest

from gpunet.distributed import peers, watch
from gpunet.distributed.peers import Place
from gpunet.distributed.watch import Centre, Spoke

MADE = []


class Ended(Exception):  # noqa: N818
    pass


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(watch, "BEAT", 0.05)
    monkeypatch.setattr(watch, "LEFT", 0.3)


@pytest.fixture
def reasons(monkeypatch):
    """The reasons for which somebody has ended the run; the thread that does ends, too."""
    found = []

    def run(self):
        while not found:
            try:
                if not self._turn():
                    return
            except Ended:
                return

    monkeypatch.setattr(watch.Watch, "_run", run)
    MADE.clear()
    yield found
    found.append("the end of the test")
    time.sleep(0.2)  # until the threads have ended
    for each in MADE:
        for peer in each._peers:
            peer.socket.close()
    MADE[0]._server.close()


def watched(reasons, size=3):
    def abort(reason):
        reasons.append(reason)
        raise Ended

    places = [Place(f"host{rank}") for rank in range(size)]
    centre = Centre(places[0], abort, size)
    spokes = [Spoke(place, abort, rank, centre.address) for rank, place in enumerate(places[1:], 1)]
    MADE.extend([centre, *spokes])
    return places, centre, spokes


def until(condition, seconds=30.0):
    """Waits until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def waited(found):
    """The first thing that is found."""
    until(lambda: found)
    return found[0]


def met(centre, count=2):
    """Waits until so many ranks have been admitted."""
    until(lambda: len(centre._peers) == count)


@pytest.mark.parametrize("rank", [0, 2])
def test_what_a_check_finds_ends_all(reasons, rank):
    places, centre, spokes = watched(reasons)
    found = ["", ""]
    places[rank].at = "epoch 1, step 4"
    [centre, *spokes][rank].checks.append(lambda: found.pop() if found else "a link is down")
    assert waited(reasons) == "at epoch 1, step 4, a link is down"
    assert not found


def test_a_check_that_raises_ends_all(reasons):
    _, centre, _ = watched(reasons)
    centre.checks.append(lambda: 1 / 0)
    assert waited(reasons) == "at its start, a check of the watch has failed: ZeroDivisionError: division by zero"


def test_ranks_that_speak_are_left_alone(reasons):
    watched(reasons)
    time.sleep(1.2)
    assert reasons == []


def test_a_connection_that_closes_is_a_death(reasons):
    places, centre, spokes = watched(reasons)
    met(centre)
    places[2].at = "epoch 7, step 8"
    until(lambda: "epoch 7, step 8" in [peer.word["at"] for peer in centre._peers])
    spokes[1]._turn = lambda: False  # a dead rank does not miss rank 0
    time.sleep(0.3)
    spokes[1]._centre.socket.shutdown(socket.SHUT_RDWR)
    assert waited(reasons) == "rank 2 on host2, last seen at epoch 7, step 8, has died"


def test_rank_0_that_dies_is_missed(reasons):
    places, centre, spokes = watched(reasons, size=2)
    met(centre, 1)
    places[0].at = "epoch 7, step 8"
    until(lambda: spokes[0]._centre.word["at"] == "epoch 7, step 8")
    centre._turn = lambda: False
    time.sleep(0.3)
    centre._peers[0].socket.shutdown(socket.SHUT_RDWR)
    assert waited(reasons) == "rank 0 on host0, last seen at epoch 7, step 8, has died"


def test_one_that_leaves_first_says_so(reasons):
    _, centre, spokes = watched(reasons)
    met(centre)
    spokes[1].leave()
    spokes[1]._centre.socket.shutdown(socket.SHUT_RDWR)
    time.sleep(0.8)
    assert reasons == []


def test_one_that_leaves_at_once_is_no_death(reasons, monkeypatch):
    """Rank 0 may read all that it has said at one time."""
    read, peers = watch.Peer.read, []

    def late(self):
        if self.rank < 0 and self not in peers:
            peers.append(self)
            time.sleep(0.3)
        return read(self)

    monkeypatch.setattr(watch.Peer, "read", late)
    _, _, spokes = watched(reasons)
    spokes[1].leave()
    spokes[1]._centre.socket.shutdown(socket.SHUT_RDWR)
    time.sleep(1.0)
    assert reasons == []


def test_nobody_waits_for_one_that_has_left(reasons):
    places, centre, spokes = watched(reasons)
    met(centre)
    spokes[0].leave()
    places[2].waiting = time.monotonic()
    assert waited(reasons) == "rank 1 on host1, last seen at its start, has ended its program while others wait for it"


def test_nobody_waits_for_rank_0_that_has_left(reasons):
    places, centre, _ = watched(reasons)
    met(centre)
    centre.leave()
    places[2].waiting = time.monotonic()
    assert waited(reasons) == "rank 0 on host0, last seen at its start, has ended its program while others wait for it"


def test_all_waiting_in_different_calls_is_noticed(reasons):
    places, _, _ = watched(reasons)
    for place in places:
        place.waiting, place.what, place.calls = time.monotonic(), "signals", 7
    time.sleep(1.0)
    assert reasons == []  # in the same call, which may take long
    places[1].what = "predictions"
    found = waited(reasons)
    assert "rank 1 on host1, last seen at its start, waits for predictions, its call 7, but rank 0 for signals" in found


def test_all_waiting_for_each_other_for_long_is_noticed(reasons):
    """As GPUs do whose network has failed."""
    places, centre, _ = watched(reasons)
    centre._patience = 0.6
    for place in places:
        place.waiting = time.monotonic()
    assert "all ranks have waited for each other for 1 s; GPUNET_RANK_PATIENCE says how long" in waited(reasons)


def test_silence_is_noticed(reasons, monkeypatch):
    monkeypatch.setattr(watch, "SILENT", 0.5)
    _, centre, spokes = watched(reasons)
    met(centre)
    monkeypatch.setattr(spokes[0], "_speak", lambda: None)
    assert "rank 1 on host1, last seen at its start, has not been heard of for" in waited(reasons)


def test_ranks_find_a_machine_whose_name_they_do_not_know(reasons):
    _, centre, _ = watched(reasons, size=1)
    (name, *addresses), *rest = centre.address
    assert name == socket.gethostname()
    assert "127.0.0.1" not in addresses
    for hosts in (["no-such-machine.invalid", "127.0.0.1"], ["127.0.0.1"]):
        MADE.append(Spoke(Place("host1"), reasons.append, len(MADE), (hosts, *rest)))
        assert len(centre._peers) == len(MADE) - 1  # it has been taken in, whatever comes now
    wrong = ["no-such-machine.invalid", "x" * 64, "127.0.0.1"]
    with pytest.raises(ConnectionError, match=f"{wrong[0]}: .*, {wrong[1]}: .*, 127.0.0.1: .* is not rank 0"):
        Spoke(Place("host2"), reasons.append, 3, (wrong, rest[0], "wrong"))
    assert reasons == []


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH\r\n", b"5\n", b"[]\n", b""])
def test_strangers_at_one_of_the_addresses_are_passed_over(reasons, monkeypatch, said):
    """Whatever they say, or if they are silent."""
    monkeypatch.setattr(peers, "REACHED", 4.0)
    _, centre, _ = watched(reasons, size=1)
    _, port, password = centre.address
    with socket.create_server(("127.0.0.2", 0)) as stranger:
        connect = socket.create_connection
        monkeypatch.setattr(
            socket,
            "create_connection",
            lambda to, **options: connect(stranger.getsockname() if to[0] == "wrong" else to, **options),
        )
        begin = threading.Event()
        monkeypatch.setattr(peers._Tries, "connect", ordered(peers._Tries.connect, begin))
        answering = threading.Thread(target=answer, args=(stranger, said, begin))
        answering.start()
        MADE.append(Spoke(Place("host1"), reasons.append, 1, (["wrong", "127.0.0.1"], port, password)))
        answering.join()
    assert [peer.rank for peer in centre._peers] == [1]
    assert reasons == []


def ordered(connect, begin):
    """Connects to all but the stranger only after that has been met."""

    def run(tries, host, port):
        if host != "wrong":
            begin.wait(10)
        connect(tries, host, port)

    return run


def answer(stranger, said, begin):
    connection, _ = stranger.accept()
    with connection:
        begin.set()
        connection.sendall(said)
        time.sleep(0.5 if said else 2.5)


def test_strangers_are_sent_away(reasons):
    _, centre, _ = watched(reasons)
    met(centre)
    for words in (b"GET / HTTP/1.1\r\n\r\n", b'{"password": "wrong", "rank": 1}\n', b"[]\n", b"\xff\n", b""):
        with socket.create_connection(("127.0.0.1", centre.address[1])) as stranger:
            stranger.sendall(words)
            stranger.settimeout(2)
            if words:
                assert not stranger.recv(10)  # it is closed
    time.sleep(0.3)
    assert reasons == []
    assert len(centre._peers) == 2
