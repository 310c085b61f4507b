r"""Take patterns from another program through a socket, and send them to one.

The program that has the patterns listens, and sends them to the program that connects. It sends one message after another. A message is
eight bytes and a body. The eight bytes are "G4D", one letter, and the number of bytes in the body (32 bits, little-endian):

========  ==================================================================================================================
letter    body
========  ==================================================================================================================
``S``     a scan begins. JSON, UTF-8: ``{"version": 1, "shape": [Rx, Ry, Qx, Qy], "dtype": "uint16", "name": "…",
          "calibration": {"energy": 300000, "semiangle": 1.5, "q_pixel": 0.02, "r_pixel": 1.0}}``. The last two entries, and each
          value of the calibration, may be absent. Units are eV, mrad, 1/Å, Å.
``F``     patterns that follow the last ones in scan order, row by row: numbers in C order, little-endian, any number of whole patterns
``P``     patterns anywhere: their number n (32 bits), n pairs of row and column (32 bits each), then the n patterns
``E``     the scan ends, complete or not. The body is empty.
========  ==================================================================================================================

After ``E`` another scan may begin, or the connection is closed. A receiver that is slower does not read: the sender's `send` then waits.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gpu4d.arrays import ArrayLike, DType
from gpu4d.data._live_scan import live_positions, live_scan
from gpu4d.data.arguments import real_values
from gpu4d.data.calibration import Calibration
from gpu4d.data.datacube import DataCube
from gpu4d.errors import InputError
from gpu4d.io.foreign import shown
from gpu4d.real_arrays import real_number

__all__ = ["FrameSender", "LiveFrames", "SocketSource"]

VERSION = 1
HEAD = struct.Struct("<3sBI")  # "G4D", letter, bytes of the body
MAGIC = b"G4D"
MOST_HEADER = 64 << 10  # bytes of the JSON of a scan: it has a few numbers
MOST_BODY = 1 << 30  # bytes of a message with patterns; only PORTION of it is held at a time
MOST_POSITIONS = 1 << 20  # of the patterns of one message, 8 MB
LARGEST_SIDE = 1 << 24  # positions or pixels along one axis
LARGEST_SCAN = 1 << 28  # positions, of which a list of those that came has a byte each
LARGEST_PATTERN = 1 << 28  # bytes: 8192 × 8192 of 32 bits
PORTION = 1 << 20  # bytes of patterns that are given on together, at least one pattern
SMALL = 1 << 16  # bytes of a message that is sent by one call of the system, because copying it costs less than calls
DTYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
KNOWN = ("energy", "semiangle", "q_pixel", "r_pixel")  # of a calibration that a header may state


def __dir__() -> list[str]:
    return list(__all__)


class SocketSource:
    """Scans that another program sends through a socket, one after the other. `FrameSender` is the other end.

    Parameters
    ----------
    address : str
        "tcp://host:port" of the program that sends.
    timeout : float, optional
        Seconds to wait for the next bytes. By default as long as it takes.
    connect_within : float
        Seconds in which the other program must begin to listen.

    Raises
    ------
    InputError
        Another form of address, or no program answers there.

    Notes
    -----
    What comes is not trusted: sizes are limited, and whatever does not fit the description of the messages (docs/how-to/live.md) is
    refused with an error.

    Examples
    --------
    >>> import threading, numpy as np, gpu4d
    >>> sender = FrameSender("tcp://127.0.0.1:0")
    >>> def camera():
    ...     with sender:
    ...         sender.begin((4, 4, 8, 8), "uint8")
    ...         for _ in range(4):
    ...             sender.send(np.ones((4, 8, 8), "uint8"))
    ...         sender.end()
    >>> thread = threading.Thread(target=camera)
    >>> thread.start()
    >>> with SocketSource(sender.address) as source:
    ...     total = [np.sum(gpu4d.live(scan, gpu4d.MeanPattern())) for scan in source]
    >>> thread.join()
    >>> [float(t) for t in total]
    [64.0]
    """

    def __init__(self, address: str, *, timeout: float | None = None, connect_within: float = 10.0):
        self.address, place = address, _place(address)
        for name, seconds in (("timeout", timeout), ("connect_within", connect_within)):
            if seconds is not None and not float(real_number(seconds, name)) > 0:
                raise InputError(f"{name} is {seconds!r}: need seconds, more than 0")
        self._socket = _connected(place, address, connect_within)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # else a computer that is switched off is never noticed
        self._socket.settimeout(timeout)
        self._stream: Any = self._socket.makefile("rb", buffering=PORTION)  # many small messages are one call of the system
        self._current: LiveFrames | None = None

    def __iter__(self) -> Iterator[LiveFrames]:
        """Yield one scan after the other, until the other program closes the connection. What is left of a scan is skipped."""
        while (found := self._next()) is not None:
            yield found

    def next_scan(self) -> LiveFrames:
        """Wait for the next scan. Raise InputError if the other program has closed the connection."""
        found = self._next()
        if found is None:
            raise InputError(f"{self.address}: the other program sends no more scans: it closed the connection")
        return found

    def close(self) -> None:
        """Close the connection: the other program gets an error if it sends more."""
        self._stream.close()
        self._socket.close()

    def _next(self) -> LiveFrames | None:
        if self._current is not None:
            for _ in self._current:
                pass
        head = self._head(at_end=True)
        if head is None:
            return None
        letter, size = head
        if letter != "S":
            raise self._wrong(f"a message {letter!r} where a scan should begin")
        if size > MOST_HEADER:
            raise self._wrong(f"{size} bytes that describe a scan: at most {MOST_HEADER} are taken")
        self._current = LiveFrames(self, _described(self._bytes(size, "the description of a scan"), self._wrong))
        return self._current

    def _head(self, at_end: bool = False) -> tuple[str, int] | None:
        """Return letter and size of the next message; None if the connection was closed and may be."""
        got = self._bytes(HEAD.size, "the head of a message", at_end)
        if not got:
            return None
        magic, letter, size = HEAD.unpack(got)
        if magic != MAGIC or chr(letter) not in "SFPE":
            raise self._wrong(f"bytes {bytes(got).hex(' ')} that begin no message of this protocol")
        return chr(letter), size

    def _bytes(self, count: int, what: str, at_end: bool = False) -> bytearray:
        got = bytearray(count)
        return got if self._fill(memoryview(got), what, at_end) else bytearray()

    def _fill(self, into: memoryview, what: str, at_end: bool = False) -> bool:
        """Wait until a buffer is full. Return False if nothing came because the connection was closed, and may be."""
        done = self._waited(self._stream.readinto, into, what)
        if done == len(into):
            return True
        if at_end and done == 0:
            return False
        raise self._failed(f"the other program closed the connection inside a scan, before {what}")

    def _waited(self, read: Callable[[Any], Any], argument: Any, what: str) -> Any:
        """Call a method of the stream, and put its errors into our words."""
        try:
            return read(argument)
        except TimeoutError:
            raise self._failed(f"nothing came for {self._socket.gettimeout():g} s, waiting for {what}") from None
        except (OSError, ValueError) as error:  # ValueError: it was closed
            raise self._failed(f"the connection broke ({getattr(error, 'strerror', None) or error}), waiting for {what}") from error

    def _small_messages(self, one: int, most: int) -> bytes:
        """Take all messages with whole patterns of `one` bytes that have come already, and return the patterns.

        A message of one pattern costs as much Python as one of a hundred. Empty if the next message is another, or not there as a whole.
        """
        come, bodies, at, left = memoryview(self._waited(self._stream.peek, 1, "a message")), list[memoryview](), 0, most * one
        while at + HEAD.size <= len(come):
            magic, letter, size = HEAD.unpack_from(come, at)
            end = at + HEAD.size + size
            if (magic, letter) != (MAGIC, ord("F")) or not size or size % one or size > left or end > len(come):
                break
            bodies.append(come[at + HEAD.size : end])
            at, left = end, left - size
        self._stream.read(at)
        return b"".join(bodies)

    def _wrong(self, what: str) -> InputError:
        return self._failed(f"got {what}; the messages are described in docs/how-to/live.md")

    def _failed(self, what: str) -> InputError:
        """Close the connection, because it is not known where its next message begins, and return the error."""
        self.close()
        return InputError(f"{self.address}: {what}")

    def __enter__(self) -> SocketSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LiveFrames:
    """The patterns of one scan of a `SocketSource`, which come while they are iterated.

    Iterating yields pairs of positions, (n, 2) or None in scan order, and patterns (n, Qx, Qy).

    Attributes
    ----------
    scan : DataCube
        What the other program says of the scan. It has no patterns.
    arrived : int
        Patterns so far.
    """

    def __init__(self, source: SocketSource, scan: DataCube):
        self.scan, self.arrived = scan, 0
        self._source = source
        self._portions = self._read()

    def __iter__(self) -> Iterator[tuple[np.ndarray | None, np.ndarray]]:
        return self._portions

    def _read(self) -> Iterator[tuple[np.ndarray | None, np.ndarray]]:
        source, shape = self._source, self.scan.detector_shape
        dtype = np.dtype(self.scan.dtype).newbyteorder("<")
        one, most = math.prod(shape) * dtype.itemsize, math.prod(self.scan.scan_shape)
        small = HEAD.size + one <= PORTION // 4
        while True:
            if small and (come := source._small_messages(one, most - self.arrived)):
                frames = np.frombuffer(come, dtype).reshape(-1, *shape)
                self.arrived += len(frames)
                yield None, frames
                continue
            letter, size = source._head() or ("", 0)
            if letter == "E" and size == 0:
                return
            if letter not in ("F", "P"):
                raise source._wrong(f"a message {letter!r} of {size} bytes inside a scan")
            if size > MOST_BODY:
                raise source._wrong(f"a message of {size} bytes: at most {MOST_BODY} are taken")
            positions, n = self._positions(size, one) if letter == "P" else (None, size // one)
            if letter == "F" and n * one != size:
                raise source._wrong(f"{size} bytes of patterns of {one} bytes each: need whole patterns")
            if self.arrived + n > most:
                raise source._wrong(f"{self.arrived + n} patterns of a scan that has {most}")
            small, step = HEAD.size + size <= PORTION // 4, max(1, PORTION // one)
            for first in range(0, n, step):
                frames = np.empty((min(step, n - first), *shape), dtype)
                source._fill(frames.data.cast("B"), f"pattern {self.arrived} of {most}")
                self.arrived += len(frames)
                yield None if positions is None else positions[first : first + len(frames)], frames

    def _positions(self, size: int, one: int) -> tuple[np.ndarray, int]:
        """Read the positions of patterns that may be anywhere."""
        source = self._source
        n = int.from_bytes(source._bytes(4, "a number of patterns"), "little") if size >= 4 else 0
        if n > MOST_POSITIONS or size != 4 + n * (8 + one):
            raise source._wrong(f"a message 'P' of {size} bytes for {n} patterns of {one} bytes: need {4 + n * (8 + one)} bytes")
        places = np.frombuffer(source._bytes(8 * n, "the positions of patterns"), "<u4").reshape(n, 2).astype(np.int64)
        rx, ry = self.scan.scan_shape
        if not (places < (rx, ry)).all():
            raise source._wrong(f"a position outside the scan of {rx}×{ry}")
        return places, n


class FrameSender:
    """Sends scans to one program that connects, as `SocketSource` does. It listens from the beginning.

    Parameters
    ----------
    address : str
        "tcp://host:port" to listen at. With port 0 the system chooses one; `address` has it. Everybody who can reach this port can take
        the patterns, so listen at 127.0.0.1 unless the other program is on another computer.

    Examples
    --------
    See `SocketSource`. The page docs/how-to/live.md has a sender that needs nothing but Python.
    """

    def __init__(self, address: str = "tcp://127.0.0.1:0"):
        try:
            self._server = socket.create_server(_place(address))
        except OSError as error:
            raise InputError(
                f"{shown(address)}: cannot listen there ({error.strerror or error}); give a free port of this computer"
            ) from error
        self.address = f"tcp://{self._server.getsockname()[0]}:{self._server.getsockname()[1]}"
        self._socket: socket.socket | None = None
        self._scan: DataCube | None = None

    def begin(
        self,
        shape: Sequence[int],
        dtype: DType | str,
        calibration: Calibration | Mapping[str, float] | None = None,
        name: str = "live scan",
    ) -> None:
        """Begin a scan. Waits for the other program to connect, if it has not.

        Parameters
        ----------
        shape : (Rx, Ry, Qx, Qy)
        dtype : dtype
        calibration : Calibration, or mapping of str to float, optional
            energy (eV), semiangle (mrad), q_pixel (1/Å) and r_pixel (Å), as far as they are known. No more of it is sent.
        name : str

        Raises
        ------
        InputError
            A receiver would refuse this description, or the last scan was not ended.
        """
        if self._scan is not None:
            raise InputError("the last scan goes on: call end() before the next begin(shape, dtype)")
        scan = live_scan(shape, dtype)
        if (kind := np.dtype(scan.dtype).name) not in DTYPES:
            raise InputError(f"the dtype of the patterns is {kind}: need one of {', '.join(DTYPES)}")
        if isinstance(calibration, Calibration):
            calibration = {key: getattr(calibration, key) for key in KNOWN}
        known = {key: float(real_number(value, key)) for key, value in dict(calibration or {}).items() if value is not None}
        header = json.dumps(
            {"version": VERSION, "shape": list(scan.shape), "dtype": kind, "calibration": known, "name": str(name)}
        ).encode()
        _described(header, lambda what: InputError(f"begin got {what}"))
        if self._socket is None:
            self._socket = self._server.accept()[0]
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._message("S", header)
        self._scan = scan

    def send(self, frames: ArrayLike, positions: ArrayLike | None = None) -> None:
        """Send patterns (n, Qx, Qy) or (Qx, Qy), in scan order or with their `positions` (n, 2). Waits while the receiver is slower."""
        if self._scan is None:
            raise InputError("begin(shape, dtype) comes before patterns")
        dtype, shape = np.dtype(self._scan.dtype), self._scan.detector_shape
        given = real_values(frames, "frames")
        given = given[None] if given.ndim == 2 else given
        if given.ndim != 3 or given.shape[1:] != shape or given.dtype.newbyteorder("=") != dtype:
            raise InputError(f"frames are {given.shape} {given.dtype}: need (n, {shape[0]}, {shape[1]}) {dtype}")
        places = None if positions is None else live_positions(positions, len(given), self._scan.scan_shape).astype("<u4")
        step = max(1, PORTION // max(1, given[:1].nbytes))
        for first in range(0, len(given), step):
            some = np.ascontiguousarray(given[first : first + step], dtype.newbyteorder("<"))
            body = some.data.cast("B")
            if places is None:
                self._message("F", body)
            else:
                self._message("P", struct.pack("<I", len(some)) + places[first : first + step].tobytes(), body)

    def end(self) -> None:
        """End the scan, also before all its patterns were sent. Another one may begin."""
        self._message("E", b"")
        self._scan = None

    def close(self) -> None:
        """Close the connection, and listen no more."""
        if self._socket is not None:
            self._socket.close()
        self._server.close()

    def _message(self, letter: str, *parts: bytes | memoryview) -> None:
        if self._socket is None:
            raise InputError("begin(shape, dtype) comes before patterns and the end of a scan")
        size = sum(len(part) for part in parts)
        messages = [HEAD.pack(MAGIC, ord(letter), size), *parts]
        try:
            for part in [b"".join(messages)] if size < SMALL else messages:
                self._socket.sendall(part)
        except OSError as error:
            raise InputError(f"{self.address}: the receiver is gone ({error.strerror or error})") from error

    def __enter__(self) -> FrameSender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _place(address: str) -> tuple[str, int]:
    """Return host and port of "tcp://host:port"."""
    scheme, _, rest = str(address).partition("://")
    host, _, port = rest.rpartition(":")
    if scheme != "tcp" or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise InputError(f"the address is {shown(str(address))!r}: need 'tcp://host:port', as 'tcp://127.0.0.1:9000'")
    return host.strip("[]"), int(port)


def _connected(place: tuple[str, int], address: str, within: float) -> socket.socket:
    """Connect to a program, which may begin to listen a little later."""
    last = time.monotonic() + within
    while True:
        try:
            return socket.create_connection(place, timeout=max(0.1, last - time.monotonic()))
        except OSError as error:
            if not isinstance(error, ConnectionRefusedError) or time.monotonic() > last:
                why = error.strerror or str(error)
                raise InputError(
                    f"{address}: no program answers there ({why}); start the program that sends, or give its host and port"
                ) from error
            time.sleep(0.05)


def _described(text: bytes | bytearray, wrong: Any) -> DataCube:
    """Return the scan that a header describes. What is no description of a scan is refused."""
    try:
        said = json.loads(bytes(text))
        shape, dtype, known = said["shape"], said["dtype"], said.get("calibration") or {}
        version, name = said["version"], said.get("name", "live scan")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        raise wrong(
            f"a description that is no JSON with version, shape and dtype: {shown(bytes(text[:80]).decode(errors='replace'))}"
        ) from None
    if version != VERSION:
        raise wrong(f"version {shown(str(version)[:20])} of the protocol: this gpu4d knows {VERSION}")
    whole = isinstance(shape, list) and len(shape) == 4 and all(type(n) is int and 0 < n <= LARGEST_SIDE for n in shape)
    if not whole or dtype not in DTYPES:
        given = f"{shown(str(shape)[:80])} {shown(str(dtype)[:20])}"
        raise wrong(f"a scan of {given}: need four sizes from 1 to {LARGEST_SIDE} and one of {', '.join(DTYPES)}")
    if shape[0] * shape[1] > LARGEST_SCAN:
        raise wrong(f"a scan of {shape[0]}×{shape[1]} positions: at most {LARGEST_SCAN} are taken")
    if shape[2] * shape[3] * np.dtype(dtype).itemsize > LARGEST_PATTERN:
        raise wrong(f"patterns of {shape[2]}×{shape[3]} {dtype}: at most {LARGEST_PATTERN} bytes are taken")
    numbers = isinstance(known, dict) and all(type(v) in (int, float) and abs(v) < 1e12 for v in known.values())
    if not numbers or not set(known) <= set(KNOWN):
        raise wrong(f"a calibration {shown(str(known)[:80])}: need numbers for some of {', '.join(KNOWN)}")
    try:
        cube = live_scan(shape, dtype, Calibration(**known))
    except InputError as error:
        raise wrong(f"a calibration that is refused: {error}") from error
    cube.name = shown(str(name)[:200])
    return cube
