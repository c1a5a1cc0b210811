"""The server among broken, hostile, slow and many clients: it answers, none is reset, nothing grows, no traceback."""

import http.client
import io
import json
import os
import re
import socket
import threading
import time
from collections import Counter
from http import HTTPStatus
from pathlib import Path

import pytest
from PIL import Image
from tests.demo.test_demo import NAMES, engine  # noqa: F401 (a fixture)

from context_i2w.demo import web
from context_i2w.demo.server import Demo, serve
from context_i2w.demo.web import Refused, Response, Route, Server

OWN = {"X-Context-I2W": "1"}


@pytest.fixture
def running():
    """Starts servers and stops them at the end."""
    servers = []

    def start(server):
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        servers.append(server)
        return server.server_address

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def address(engine, running, capfd):  # noqa: F811
    yield running(serve(Demo(engine, []), port=0))
    assert "Traceback" not in capfd.readouterr().err


def raw(address, data, timeout=10):
    """Everything the server sends until it closes."""
    with socket.create_connection(address, timeout=timeout) as connection:
        connection.sendall(data)
        out = b""
        while piece := connection.recv(1 << 16):
            out += piece
    return out


def status(answer):
    return int(answer.split(b" ", 2)[1])


def ask(address, method, path, body=None, timeout=60):
    """(status, content); the status is the exception's name where no answer came."""
    connection = http.client.HTTPConnection(*address, timeout=timeout)
    try:
        connection.request(method, path, body, OWN)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError as error:
        return type(error).__name__, b""
    finally:
        connection.close()


def get(target="/images", host="127.0.0.1", more=""):
    return f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n".encode()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:99999", "localhost:7860", "LOCALHOST", "[::1]", "127.0.0.2"])
def test_hosts_of_this_machine(address, host):
    assert status(raw(address, get(host=host))) == 200


@pytest.mark.parametrize(
    "host",
    ["", "[", "[::1", "evil.example", "127.0.0.1.evil.example", "evil@127.0.0.1", "0.0.0.0", "localhost:x", "127.1"],
)
def test_other_hosts_are_refused(address, host):
    assert status(raw(address, get(host=host))) == 403


@pytest.mark.parametrize(
    ("request_", "wanted"),
    [
        (get("//["), 404),
        (get("*"), 400),
        (get("http://evil.example/images"), 400),
        (get("/images?offset=" + "9" * 5000), 200),
        (get("/images?offset=-1"), 200),
        (get("/images?offset=٣"), 200),
        (get("/thumbnail?" + "a=1&" * 3000), 400),
        (get("/" + "a" * 70000), 431),
        (get(host="a" * 60000), 431),
        (get(more="Host: evil.example\r\n"), 400),
        (get(more="no colon\r\n"), 400),
        (get(more=" folded: x\r\n"), 400),
        (b"\r\n\r\n", 400),
        (b"GET /images HTTP/9\r\n\r\n", 400),
        (b"GET /images HTTP/1.1\r\nConnection: close\r\n\r\n", 403),
        (b"OPTIONS /search HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    ],
)
def test_broken_heads_get_an_answer(address, request_, wanted):
    assert status(raw(address, request_)) == wanted


def post(more, body=b"{}", path="/search"):
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nX-Context-I2W: 1\r\n{more}\r\n".encode() + body


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        *((f"Content-Length: {value}\r\n", 411) for value in ("", "-1", "x", "1e3", "+5", "5, 5", "0x10", "٣")),
        ("Content-Length: " + "9" * 5000 + "\r\n", 413),
        ("Content-Length: 2\r\nContent-Length: 50\r\n", 400),
        ("Transfer-Encoding: chunked\r\n", 411),
        ("Transfer-Encoding: chunked\r\nContent-Length: 2\r\n", 411),
        ("", 411),
    ],
)
def test_broken_lengths_get_an_answer(address, more, wanted):
    assert status(raw(address, post(more))) == wanted


def test_a_refused_body_is_not_read_as_a_request(address):
    inner = get()
    for method, path in (("POST", "/search"), ("GET", "/page.css")):
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(inner)}\r\n\r\n"
        assert raw(address, head.encode() + inner).count(b"HTTP/1.1 ") == 1


def test_pipelined_requests_are_answered_in_turn(address):
    one = b"GET /page.css HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    assert raw(address, one * 50 + get("/page.css")).count(b"HTTP/1.1 200") == 51


def test_what_nobody_thought_of_is_an_answer_and_a_line(running, capfd):
    def broken(_):
        raise ZeroDivisionError("one\nand two")

    address = running(Server(lambda _: Route(broken), "127.0.0.1", 0))
    assert ask(address, "GET", "/x")[0] == 500
    assert capfd.readouterr().err == "error: GET /x: ZeroDivisionError: one and two\n"


def test_slow_clients_hold_nobody_and_are_ended(address, monkeypatch):
    monkeypatch.setattr(web, "PACE", 1)
    monkeypatch.setattr(web, "IDLE", 1)
    monkeypatch.setattr(web, "LINGER", 0.2)
    half = [
        b"GET /images HTT",
        post("Content-Length: 16000000\r\n", b"x", "/upload"),
        post("Content-Length: 9\r\n", b"x"),
    ]
    slow = []
    for number in range(60):
        slow.append(socket.create_connection(address, timeout=10))
        slow[-1].sendall(half[number % 3])
    before = threading.active_count()
    started = time.perf_counter()
    assert ask(address, "GET", "/page.css")[0] == 200
    assert time.perf_counter() - started < 1
    assert threading.active_count() <= before + sum(web.THREADS.values())
    ends = []
    for connection in slow:
        try:
            connection.sendall(b"y")
            ends.append(connection.recv(100)[9:12])
        except ConnectionError:  # a head that never came whole gets no answer
            ends.append(b"")
        connection.close()
    assert Counter(ends)[b"408"] >= 20  # small bodies; large ones wait for their turn first
    assert b"200" not in ends


def burst(number, work):
    """Statuses of so many clients at once."""
    found, gate = [], threading.Barrier(number)

    def one(which):
        gate.wait()
        found.append(work(which)[0])

    threads = [threading.Thread(target=one, args=(which,)) for which in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Counter(found)


def test_two_hundred_clients_at_once_are_all_answered(address):
    assert burst(200, lambda _: ask(address, "GET", "/page.css")) == {200: 200}
    question = {"description": "is blue", "explain": False}
    asked = burst(
        200, lambda n: ask(address, "POST", "/search", json.dumps({**question, "name": NAMES[n % len(NAMES)]}))
    )
    assert asked == {200: 200}


def test_a_full_queue_answers_503_at_once(running, monkeypatch):
    monkeypatch.setattr(web, "WAITING", 3)
    go = threading.Event()

    def work(_):
        go.wait(30)
        return Response("text/plain", b"done")

    address = running(Server(lambda _: Route(work, "model"), "127.0.0.1", 0))
    threading.Timer(1.5, go.set).start()
    assert burst(20, lambda _: ask(address, "GET", "/")) == {200: 3, 503: 17}


def test_nothing_is_computed_for_who_has_left(running):
    go, done = threading.Event(), []

    def work(request):
        done.append(request.path)
        go.wait(30)
        return Response("text/plain", b"")

    address = running(Server(lambda _: Route(work, "model"), "127.0.0.1", 0))
    first = threading.Thread(target=ask, args=(address, "GET", "/first"))
    first.start()
    while not done:
        time.sleep(0.01)
    with socket.create_connection(address) as leaves:
        leaves.sendall(b"GET /left HTTP/1.1\r\n\r\n")
        time.sleep(0.3)
    time.sleep(0.3)
    go.set()
    first.join()
    assert ask(address, "GET", "/last")[0] == 200
    assert done == ["/first", "/last"]


def test_an_answer_that_does_not_come_is_503(running, monkeypatch):
    monkeypatch.setattr(web, "DEADLINE", 0.3)
    go = threading.Event()
    address = running(Server(lambda _: Route(lambda _: go.wait(5)), "127.0.0.1", 0))
    assert ask(address, "GET", "/")[0] == 503
    go.set()


def test_too_many_connections_are_told_so(address, monkeypatch):
    monkeypatch.setattr(web, "CONNECTIONS", 5)
    idle = [socket.create_connection(address) for _ in range(5)]
    time.sleep(0.3)
    assert ask(address, "GET", "/page.css")[0] == 503
    for connection in idle:
        connection.close()
    time.sleep(0.3)
    assert ask(address, "GET", "/page.css")[0] == 200


def test_a_refusal_is_read_by_who_is_still_sending(running):
    def find(_):
        raise Refused(HTTPStatus.FORBIDDEN, "no")

    address = running(Server(find, "127.0.0.1", 0))
    assert ask(address, "POST", "/", os.urandom(8 << 20)) == (403, b'{"error": "no"}')


def memory():
    """MiB of this process."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")
def test_memory_is_flat_over_many_uploads(address, monkeypatch):
    monkeypatch.setattr("context_i2w.demo.server.KEPT", 16)
    out = io.BytesIO()
    Image.effect_noise((400, 300), 90).convert("RGB").save(out, "JPEG")
    one = out.getvalue()

    def upload(times):
        assert {ask(address, "POST", "/upload", one)[0] for _ in range(times)} == {200}

    upload(60)  # as many references as are kept, and the allocator's own
    before = memory()
    upload(200)
    assert memory() - before < 20
    assert burst(30, lambda _: ask(address, "POST", "/upload", one + bytes(4 << 20))) == {200: 30}
