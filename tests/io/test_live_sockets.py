"""Scans from another program through a socket: nothing is lost, the sender is slowed, and what does not fit is refused."""

import json
import socket
import struct
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from own_process import importing
from threads_left import passing_threads

import gpu4d
from gpu4d.errors import BrokenScanError, InputError
from gpu4d.io.live import FrameSender, SocketSource
from gpu4d.streaming import PerPositionReduction

CAMERA = """
import sys, time
import numpy as np
from gpu4d.io.live import FrameSender

patterns = np.random.default_rng(1).poisson(6.0, (61, 64, 64)).astype("uint16")
with FrameSender() as sender:
    print(sender.address, flush=True)
    sender.begin((64, 64, 64, 64), "uint16", {"energy": 3e5})
    sent, start = 0, time.perf_counter()
    while sent < 4096:
        due = min(4096, int((time.perf_counter() - start) * 10_000) + 1)  # its own clock: 10 kHz, whatever the receiver does
        if due > sent:
            sender.send(patterns[np.arange(sent, due) % 61])
            sent = due
        else:
            time.sleep(1e-4)
    sender.end()
"""


def message(letter, body=b""):
    return struct.pack("<3scI", b"G4D", letter.encode(), len(body)) + body


def header(**changed):
    said = {"version": 1, "shape": [2, 3, 4, 5], "dtype": "uint16", **changed}
    return message("S", json.dumps(said).encode())


@pytest.fixture
def serve():
    """A function that sends bytes to the first who connects, closes, and gives the address."""
    threads, servers, before = [], [], passing_threads()

    def begin(*parts):
        servers.append(socket.create_server(("127.0.0.1", 0)))

        def send(server=servers[-1]):
            there, _ = server.accept()
            with there:
                try:
                    for part in parts:
                        there.sendall(part)
                except OSError:
                    pass  # the receiver has had enough

        threads.append(threading.Thread(target=send))
        threads[-1].start()
        return f"tcp://127.0.0.1:{servers[-1].getsockname()[1]}"

    yield begin
    for thread, server in zip(threads, servers):
        thread.join()
        server.close()
    assert passing_threads() == before


def test_a_camera_of_10_khz_with_its_own_clock():
    """Mean, centre of mass and two images: all patterns arrive, and the results are those of a sweep of them."""
    frames = np.random.default_rng(1).poisson(6.0, (61, 64, 64)).astype("uint16")[np.arange(4096) % 61].reshape(64, 64, 64, 64)
    images = {"bf": gpu4d.detectors.disk(8.0), "adf": gpu4d.detectors.annulus(8.0, 30.0)}

    def asked():
        return {"mean": gpu4d.MeanPattern(), "com": gpu4d.CenterOfMass(), "images": gpu4d.VirtualImage(images, (31.5, 31.5))}

    with subprocess.Popen([sys.executable, "-c", CAMERA], stdout=subprocess.PIPE, text=True, env=importing()) as camera:
        with SocketSource(camera.stdout.readline().strip()) as source:
            scan = source.next_scan()
            got = gpu4d.live(scan, asked())
            assert scan.arrived == 4096 and scan.scan.calibration.energy == 3e5
            assert next(iter(source), None) is None
    assert camera.returncode == 0
    want = gpu4d.sweep(gpu4d.DataCube(frames), asked())
    for name in ("mean", "com"):
        assert np.asarray(got[name]).tobytes() == np.asarray(want[name]).tobytes()
    for name in images:
        assert np.asarray(got["images"][name]).tobytes() == np.asarray(want["images"][name]).tobytes()


class Gated(PerPositionReduction):
    """The sum of every pattern, when the test lets it go on."""

    def __init__(self):
        self.open = threading.Event()

    def bytes_needed(self, scan, n_frames):
        return self.held_bytes(scan, n_frames)

    def update(self, frames, positions):
        self.open.wait(60)
        self.put(positions, frames.sum((1, 2), dtype=np.float64)[:, None])

    def finish(self):
        return self.values.result()[0]


def test_a_slow_receiver_slows_the_sender():
    """While nothing is reduced the sender comes to a stop. Then all patterns arrive."""
    frames = np.random.default_rng(1).poisson(6.0, (61, 64, 64)).astype("uint16")
    slow, sent = Gated(), []

    def camera(sender):
        with sender:
            sender.begin((64, 128, 64, 64), "uint16")
            for first in range(0, 8192, 64):
                sender.send(frames[np.arange(first, first + 64) % 61])
                sent.append(first + 64)
            sender.end()

    sender = FrameSender()
    thread = threading.Thread(target=camera, args=(sender,))
    thread.start()

    def let_go():
        before = -1
        while not sent or sent[-1] != before:  # until nothing has moved for a while
            before = sent[-1] if sent else -1
            time.sleep(0.3)
        stopped.append(before)
        slow.open.set()

    stopped = []
    watcher = threading.Thread(target=let_go)
    watcher.start()
    with SocketSource(sender.address) as source:
        got = gpu4d.live(source, slow, memory="10 MB", device="cpu")
    thread.join()
    watcher.join()
    assert 0 < stopped[0] < 8192, "of 67 MB, 10 MB and the buffers of the system were on the way"
    np.testing.assert_array_equal(got.ravel(), frames.sum((1, 2))[np.arange(8192) % 61])


def test_several_scans_after_one_another():
    """Of other shapes and dtypes, one out of order, one that ends early, one of which the receiver takes nothing."""
    rng = np.random.default_rng(2)
    scans = [
        rng.poisson(9.0, shape).astype(dtype) for shape, dtype in (((3, 4, 5, 6), "uint8"), ((2, 7, 4, 4), ">f4"), ((4, 3, 8, 2), "int32"))
    ]
    order = rng.permutation(14)
    sender = FrameSender()

    def camera():
        with sender:
            sender.begin(scans[0].shape, "uint8", name="first\x1b[31m")
            sender.send(scans[0].reshape(12, 5, 6)[:7])
            sender.end()
            sender.begin((9, 9, 16, 16), "uint16")
            sender.send(np.zeros((80, 16, 16), "uint16"))
            sender.end()
            sender.begin(scans[1].shape, "float32")
            for n in range(0, 14, 3):
                at = order[n : n + 3]
                sender.send(scans[1].reshape(14, 4, 4)[at], np.stack(np.divmod(at, 7), -1))
            sender.end()
            sender.begin(scans[2].shape, "int32")
            for one in scans[2].reshape(12, 8, 2):
                sender.send(one)
            sender.end()

    thread = threading.Thread(target=camera)
    thread.start()
    com = gpu4d.CenterOfMass()
    with SocketSource(sender.address) as source:
        first = gpu4d.live(source, com)
        skipped = source.next_scan()
        second, third = (gpu4d.live(scan, com) for scan in source)
        with pytest.raises(InputError, match="sends no more scans"):
            source.next_scan()
    thread.join()
    assert skipped.scan.shape == (9, 9, 16, 16) and skipped.arrived == 80
    where = np.arange(12).reshape(3, 4) < 7
    for got, data, chosen in ((first, scans[0], where), (second, scans[1].astype("f4"), None), (third, scans[2], None)):
        assert np.asarray(got).tobytes() == np.asarray(gpu4d.sweep(gpu4d.DataCube(data), gpu4d.CenterOfMass(), where=chosen)).tobytes()


def test_messages_may_be_cut_anywhere(serve):
    """Of one pattern or several, with positions in between, in pieces that follow no message."""
    rng = np.random.default_rng(5)
    data = rng.poisson(20.0, (8, 8, 4, 5)).astype("<u2")
    flat, sent, n = data.reshape(64, 4, 5), header(shape=[8, 8, 4, 5]), 0
    while n < 64:
        last = min(64, n + int(rng.integers(1, 4)))
        if rng.random() < 0.3:
            places = np.stack(np.divmod(np.arange(n, last), 8), -1).astype("<u4")
            sent += message("P", struct.pack("<I", last - n) + places.tobytes() + flat[n:last].tobytes())
        else:
            sent += message("F", flat[n:last].tobytes())
        n = last
    sent += message("E") + header(shape=[2, 3, 4, 5]) + FRAMES + message("E")
    ends = np.cumsum(rng.integers(1, 150, len(sent)))
    pieces = [sent[a:b] for a, b in zip([0, *ends], ends) if a < len(sent)]
    with SocketSource(serve(*pieces)) as source:
        first, second = (gpu4d.live(scan, gpu4d.CenterOfMass()) for scan in source)
    assert np.asarray(first).tobytes() == np.asarray(gpu4d.sweep(gpu4d.DataCube(data), gpu4d.CenterOfMass())).tobytes()
    assert np.asarray(second).shape == (2, 2, 3)


def test_a_broken_connection_leaves_the_results_so_far(serve):
    data = np.arange(6 * 20, dtype="<u2").reshape(6, 4, 5)
    address = serve(header(), message("F", data[:3].tobytes()), message("F", data[3:].tobytes())[:-50])
    with SocketSource(address) as source, pytest.raises(BrokenScanError, match=r"closed the connection inside a scan") as raised:
        gpu4d.live(source, gpu4d.CenterOfMass())
    where = np.arange(6).reshape(2, 3) < 3
    want = gpu4d.sweep(gpu4d.DataCube(data.reshape(2, 3, 4, 5)), gpu4d.CenterOfMass(), where=where)
    assert np.asarray(raised.value.results).tobytes() == np.asarray(want).tobytes() and "after 3 of 6 patterns" in str(raised.value)
    with socket.create_server(("127.0.0.1", 0)) as quiet:
        with SocketSource(f"tcp://127.0.0.1:{quiet.getsockname()[1]}", timeout=0.05) as source:
            with pytest.raises(InputError, match=r"nothing came for 0\.05 s"):
                source.next_scan()


FRAMES = message("F", bytes(80))
REFUSED = {
    "no message": (b"GET / HTTP/1.1\r\n\r\n", "begin no message"),
    "another letter": (message("X"), "begin no message"),
    "patterns first": (FRAMES, "'F' where a scan should begin"),
    "a long header": (message("S", b" " * 70000), "at most 65536 are taken"),
    "no JSON": (message("S", b"\xff\xfe{"), "no JSON with version, shape and dtype"),
    "deep JSON": (message("S", b"[" * 60000), "no JSON"),
    "a list": (message("S", b"[1, 2]"), "no JSON"),
    "a number": (message("S", b"1e999"), "no JSON"),
    "another version": (header(version=2), "version 2 of the protocol"),
    "five sizes": (header(shape=[1, 2, 3, 4, 5]), "need four sizes"),
    "a float": (header(shape=[1, 2, 3, 4.0]), "need four sizes"),
    "a negative size": (header(shape=[1, -2, 3, 4]), "need four sizes"),
    "a huge side": (header(shape=[1, 2, 3, 10**30]), "need four sizes"),
    "a huge scan": (header(shape=[1 << 20, 1 << 20, 4, 4]), "at most 268435456 are taken"),
    "a huge pattern": (header(shape=[2, 2, 1 << 20, 1 << 20]), "at most 268435456 bytes"),
    "objects": (header(dtype="O"), "one of uint8"),
    "bool, whose bytes may be anything": (header(dtype="bool"), "one of uint8"),
    "a dtype that is a list": (header(dtype=["u2"]), "one of uint8"),
    "another field": (header(calibration={"__class__": 1}), "need numbers for some of energy"),
    "no number": (header(calibration={"energy": "x\x1b[31m"}), "need numbers"),
    "a long number": (header(calibration={"energy": int("9" * 400)}), "need numbers"),
    "a negative energy": (header(calibration={"energy": -1.0}), "refused"),
    "half a pattern": (header() + message("F", bytes(60)), "need whole patterns"),
    "too many patterns": (header() + message("F", bytes(40 * 7)), "7 patterns of a scan that has 6"),
    "a huge message": (header() + struct.pack("<3scI", b"G4D", b"F", 4294967280), "at most 1073741824 are taken"),
    "many positions": (header() + message("P", struct.pack("<I", 0xFFFFFFFF)), "for 4294967295 patterns"),
    "a position outside": (header() + message("P", struct.pack("<3I", 1, 2, 0) + bytes(40)), "outside the scan of 2×3"),
    "a place twice": (header() + message("P", struct.pack("<3I", 1, 1, 1) + bytes(40)) * 2, "second time"),
    "a scan in a scan": (header() + header(), "'S' of .* bytes inside a scan"),
    "an end with a body": (header() + message("E", b"x"), "'E' of 1 bytes inside a scan"),
    "half a head": (header()[:5], "before the head of a message"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(what, serve):
    """One line, without the bytes of the sender as they are, and the connection is closed."""
    sent, message = REFUSED[what]
    with SocketSource(serve(sent)) as source:
        with pytest.raises(InputError, match=message) as raised:
            gpu4d.live(source, gpu4d.MaxPattern())
        assert str(raised.value).isprintable() and len(str(raised.value)) < 500
        if "second time" not in message:
            with pytest.raises(InputError, match="connection broke"):
                source.next_scan()


def test_addresses_and_senders():
    for address in ("http://x:1", "tcp://:1", "tcp://host", "tcp://host:99999", "tcp://host:x", 3):
        with pytest.raises(InputError, match="need 'tcp://host:port'"):
            SocketSource(address)
    with FrameSender() as sender:
        with pytest.raises(InputError, match="cannot listen there"):
            FrameSender(sender.address)
        with pytest.raises(InputError, match="begin"):
            sender.send(np.zeros((1, 2, 2), "u1"))
        with pytest.raises(InputError, match="begin"):
            sender.end()
        with pytest.raises(InputError, match="patterns is bool: need one of uint8"):
            sender.begin((2, 2, 3, 3), bool)
        for known, name, message in (
            ({"voltage": 3}, "", "got a calibration"),
            ({"energy": "x"}, "", "energy is 'x'"),
            ({"energy": -1}, "", "eV"),
        ):
            with pytest.raises(InputError, match=message):
                sender.begin((2, 2, 3, 3), "uint8", known, name)
        for options in ({"timeout": 0}, {"timeout": -1}, {"connect_within": 0}):
            with pytest.raises(InputError, match="need seconds, more than 0"):
                SocketSource(sender.address, **options)
        address = sender.address
    with pytest.raises(InputError, match="no program answers there"):
        SocketSource(address, connect_within=0.1)
    with FrameSender() as sender, SocketSource(sender.address) as source:
        sender.begin((2, 2, 3, 3), "uint8", gpu4d.Calibration(q_pixel=0.02, origin=(1, 1)))
        with pytest.raises(InputError, match="the last scan goes on"):
            sender.begin((2, 2, 3, 3), "uint8")
        one = np.zeros((1, 3, 3), "u1")
        for frames, positions in (
            (np.zeros((1, 3, 3)), None),
            (one[0, :1], None),
            (np.zeros((2, 3, 3), "u1"), [(0, 0)]),
            (one, [(-1, 0)]),
            (one, [(0.5, 0)]),
            (one, [(0, 2)]),
        ):
            with pytest.raises(InputError, match="need"):
                sender.send(frames, positions)
        assert source.next_scan().scan.calibration.q_pixel == 0.02
        source.close()
        with pytest.raises(InputError, match="the receiver is gone"):
            for _ in range(100_000):
                sender.send(np.zeros((1, 3, 3), "u1"))
