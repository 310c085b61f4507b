"""The server of the viewer: it answers its own page, and nothing else."""

import http.client
import json
import socket
import struct
import threading

import numpy as np
import pytest

import gpu4d
from gpu4d.view import ViewServer, detector_from
from gpu4d.view.answers import Answers, Newest, Outdated
from gpu4d.view.scan_view import ScanView

DISK = {"shape": "disk", "center": [9.5, 12.0], "outer": 4.0}


def ask(server, method="GET", path="/", body=None, **headers):
    """Send one request as it is, without what a browser would refuse to send."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in {"Host": f"127.0.0.1:{server.port}", **headers}.items():
            connection.putheader(name.replace("_", "-"), value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def cookie(server):
    return f"{server.cookie}={server.token}"


def asked(server, **request):
    answer, body = ask(server, "POST", "/ask", json.dumps(request).encode(), Cookie=cookie(server))
    if answer.status != 200:
        return answer.status, body.decode()
    (size,) = struct.unpack("<I", body[:4])
    said = json.loads(body[4 : 4 + size])
    return said, np.frombuffer(body[4 + size :], "<f8").reshape(said["shape"])


@pytest.mark.parametrize("path", ["/", "/view.js", "/view.css", "/about", "/?token=", "/?token=wrong"])
def test_nothing_is_answered_without_the_token(server, path):
    assert ask(server, path=path)[0].status == 403
    assert ask(server, path=path, Cookie=f"{server.cookie}=wrong")[0].status == 403
    assert ask(server, "POST", "/ask", json.dumps({"ask": "summary", "name": "mean"}).encode())[0].status == 403


def test_the_token_becomes_a_cookie_that_scripts_cannot_read(server):
    answer, _ = ask(server, path=f"/?token={server.token}")
    assert answer.status == 303 and answer.getheader("Location") == "/"
    assert {"HttpOnly", "SameSite=Strict"} <= set(answer.getheader("Set-Cookie").split("; "))
    answer, page = ask(server, Cookie=answer.getheader("Set-Cookie").split(";")[0])
    assert answer.status == 200 and b'<script type="module" src="/view.js">' in page and server.token.encode() not in page


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "evil.example:{port}", "127.0.0.1:1", "0.0.0.0:{port}", ""])
def test_another_name_of_this_address_is_refused(server, host):
    answer, _ = ask(server, path="/about", Cookie=cookie(server), Host=host.format(port=server.port))
    assert answer.status == 403


def test_pages_of_other_sites_are_refused(server):
    body = json.dumps({"ask": "summary", "name": "mean"}).encode()
    assert ask(server, "POST", "/ask", body, Cookie=cookie(server), Origin="http://evil.example")[0].status == 403
    assert ask(server, "POST", "/ask", body, Cookie=cookie(server), Origin=f"http://127.0.0.1:{server.port}")[0].status == 200
    assert ask(server, "OPTIONS", "/ask", Cookie=cookie(server), Origin="http://evil.example")[0].status == 501  # no CORS
    answer, _ = ask(server, path="/about", Cookie=cookie(server))
    assert answer.getheader("Access-Control-Allow-Origin") is None
    policy = answer.getheader("Content-Security-Policy")
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/front_end/viewer.js", "/view.js/../server.py"]
)
def test_no_path_leads_to_a_file(server, path):
    answer, body = ask(server, path=path, Cookie=cookie(server))
    assert answer.status == 404 and b"root:" not in body


def test_it_listens_on_the_loopback_alone(server):
    assert server.socket.getsockname()[0] == "127.0.0.1"
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    for address in [*others, "127.0.0.2"]:
        with pytest.raises(OSError):
            socket.create_connection((address, server.port), timeout=5).close()


def test_requests_that_are_none_are_refused_in_one_line(server):
    def refused(body, status=400):
        answer, text = ask(server, "POST", "/ask", body, Cookie=cookie(server))
        assert answer.status == status and len(text.decode().splitlines()) == 1

    for wrong in ("", "{", "[]", "3", '{"ask": "files"}', '{"ask": "map", "name": "x"}', '{"ask": "summary", "name": "../x"}',
                  '{"ask": "image"}', '{"ask": "pattern", "position": [9, 0]}', '{"ask": "pattern", "position": [0.5, 0]}',
                  '{"ask": "pattern", "position": [-1, 0]}', '{"ask": "region", "rows": [0, 0], "columns": [0, 3]}',
                  '{"ask": "region", "rows": [0, 99], "columns": [0, 3]}', "[" * 20000):  # fmt: skip
        refused(wrong.encode())
    refused(b"\xff\xfe")
    refused(b" " * 70_000, 413)
    assert ask(server, "POST", "/other", b"{}", Cookie=cookie(server))[0].status == 404
    assert asked(server, ask="summary", name="mean")[1].shape == (20, 24)  # it still answers


def test_images_are_those_of_a_sweep_to_the_last_bit(server, counts):
    said, image = asked(server, ask="image", detector=DISK, exact=False)
    assert said["exact"] and said["pixels"] == int(detector_from(DISK).mask((20, 24)).sum())
    assert np.array_equal(image, np.asarray(gpu4d.sweep(counts, gpu4d.VirtualImage(detector_from(DISK)))))


def test_patterns_are_those_of_the_scan(server, counts):
    patterns = counts.source.array
    assert np.array_equal(asked(server, ask="pattern", position=[8, 10])[1], patterns[8, 10])
    assert np.array_equal(asked(server, ask="summary", name="max")[1], patterns.max(axis=(0, 1)))
    region = asked(server, ask="region", rows=[1, 4], columns=[2, 9])[1]
    np.testing.assert_allclose(region, patterns[1:4, 2:9].mean(axis=(0, 1)), rtol=1e-14)


def test_the_page_is_told_units_and_names(server, counts):
    about = json.loads(ask(server, path="/about", Cookie=cookie(server))[1])
    assert about["scan"] == [9, 11] and about["detector"] == [20, 24] and about["title"] == "a <scan> & more"
    assert about["r"] == {"size": 5.0, "unit": "Å"} and about["q"] == {"size": 0.02, "unit": "1/Å"}
    assert about["mrad"] == pytest.approx(0.02 * 0.0250793 * 1e3, rel=1e-4)  # q λ, at 200 keV


def test_newer_requests_end_older_ones():
    newest = Newest()
    first, other = newest.ticket("page", "image"), newest.ticket("page", "pattern")
    first.go_on(1, 2)
    newest.ticket("page", "image")
    assert first.outdated and not other.outdated
    with pytest.raises(Outdated):
        first.go_on(1, 2)


def test_a_long_sweep_ends_when_a_newer_request_comes(counts):
    """The first request waits in its sweep; the second comes; the first gives no image."""
    begun, go = threading.Event(), threading.Event()

    class Slow(ScanView):
        def virtual_image(self, detector, exact=True, progress=False, follow=False):
            if detector.parameters == (4.0,):
                begun.set()
                assert go.wait(30)
            return super().virtual_image(detector, exact, progress)

    values = counts.source.array.astype("float64")
    made = gpu4d.view.view_of(gpu4d.DataCube(values))
    answers = Answers(Slow(made.cube, made.mean, made.largest, made.images))
    ended = []

    def first():
        try:
            answers.answer({"ask": "image", "detector": DISK, "client": "a"})
        except Outdated:
            ended.append("outdated")

    thread = threading.Thread(target=first)
    thread.start()
    assert begun.wait(30)
    found = []
    second = threading.Thread(
        target=lambda: found.append(answers.answer({"ask": "image", "detector": {**DISK, "outer": 5.0}, "client": "a"}))
    )
    second.start()
    while not answers.newest._numbers["a", "image"] == 2:
        pass
    go.set()
    thread.join(30)
    second.join(30)
    assert ended == ["outdated"] and found[0][0]["exact"]


def test_an_outdated_request_is_answered_with_nothing(server, monkeypatch):
    def outdated(_request):
        raise Outdated

    monkeypatch.setattr(server.answers, "answer", outdated)
    answer, body = ask(server, "POST", "/ask", b"{}", Cookie=cookie(server))
    assert answer.status == 204 and body == b""


def test_a_port_is_free_again_after_the_end(counts):
    made = ViewServer(gpu4d.view.view_of(counts))
    made.start()
    made.close()
    again = ViewServer(made.answers.view, made.port)
    assert again.port == made.port and again.token != made.token
    again.server_close()
