"""Addresses: their secrets never show, however they are written."""

import base64
import json
import socket
import sys
from pathlib import Path

import pytest
import servers

from dsmap.common.text import without_passwords
from dsmap.errors import InputError
from dsmap.runtime.jobs.plan import plan_jobs
from dsmap.runtime.live.open_source import find_source
from dsmap.runtime.video.addresses import advice_for, check_address, name_of, shown, with_password
from dsmap.runtime.video.reader import VideoReader

HIDDEN = {
    "rtsp://host/cam": "rtsp://host/cam",
    "rtsp://admin:hunter2@host:554/yard": "rtsp://host:554/yard",
    "rtsp://admin:hunter/2@host/yard": "rtsp://host/yard",
    "rtsp://admin:hunter#2@host/yard": "rtsp://host/yard",
    "rtsp://admin:hunter?2@host/yard": "rtsp://host/yard",
    "rtsp://admin:hunter[2@host/yard": "rtsp://host/yard",
    "rtsp://admin:hunter]2@host/yard": "rtsp://host/yard",
    "rtsp://admin:hunter@2@host/yard": "rtsp://host/yard",
    "rtsp://admin@home:hunter/2@host/yard": "rtsp://host/yard",
    "rtsp://admin:1234/hunter2@host/yard": "rtsp://host/yard",
    "rtsp://admin:1234?hunter2@host/yard": "rtsp://...",
    "rtsp://admin:hunter℀2@host/yard": "rtsp://host/yard",
    "rtsp://admin:hünter2\u202e@host/yard": "rtsp://host/yard",
    "rtsp://admin:hunter%2F2@[::1]:554/yard": "rtsp://[::1]:554/yard",
    "http://host/v?user=admin&pwd=hunter2": "http://host/v?...",
    "http://host/v?user=admin&pwd=hunter@2": "http://...",
    "http://admin:hunter2@host/v?mail=a@hunter2": "http://...",
    "http://host:8080/v?pwd=hunter@2/x": "http://...",
    "http://host/v#pwd=hunter2": "http://host/v",
    "rtsp://host:554/user=admin&password=hunter2&channel=1": "rtsp://host:554/...",
    "http://host/a/token=hunter2/v.m3u8": "http://host/a/...",
    "srt://host:9000?passphrase=hunter2": "srt://host:9000?...",
    "rtmp://admin:hunter2@host/app/stream": "rtmp://host/app/stream",
    "http://host/@user/v.mp4": "http://user/v.mp4",
}


@pytest.mark.parametrize("address", HIDDEN)
def test_secrets_are_not_shown(address: str) -> None:
    assert shown(address) == HIDDEN[address]
    assert "hunter" not in name_of(address)
    assert "2@" not in name_of(address)


@pytest.mark.parametrize("mark", "/?#")
def test_a_password_that_ends_the_host_is_refused_with_the_way_to_write_it(mark: str) -> None:
    with pytest.raises(InputError, match="a / \\? or #, which ends the host") as caught:
        check_address(f"rtsp://admin:hunter{mark}2@host/yard")
    assert "write / as %2F" in caught.value.advice


def test_addresses_that_are_well_written_pass() -> None:
    for address in (
        "http://host/@user/v.mp4",
        "rtsp://u:p%2Fw@host:554/x@y",
        "http://[::1]:80/a@b",
        "udp://@239.0.0.1:5",
    ):
        check_address(address)
    assert "%2F" in advice_for("rtsp://admin:1234/5@host/x")  # a host called admin, or a password
    assert "%2F" not in advice_for("rtsp://admin:1234@host/x")


ODD = [
    "rtsp:/admin:hunter2@host/yard",
    "rtsp:admin:hunter2@host",
    " rtsp://admin:hunter2@host",
    "'rtsp://admin:hunter2@h'",
]


@pytest.mark.parametrize("text", ODD)
def test_what_is_almost_an_address_is_not_quoted_as_a_missing_file(text: str) -> None:
    for use in (lambda: plan_jobs([text], None, "winter"), lambda: find_source(text), lambda: VideoReader(text)):
        with pytest.raises(InputError, match="begins with rtsp: is not written correctly") as caught:
            use()
        assert "hunter" not in str(caught.value)


def test_a_file_may_be_called_like_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("http:x.mp4").touch()
    assert find_source("http:x.mp4").kind == "file"


def run(capsys: pytest.CaptureFixture[str], command: str, *arguments: object) -> tuple[int, str]:
    """The exit code of a command, and all that it printed."""
    module = __import__(f"dsmap.tools.{command}", fromlist=["main"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"dsmap-{command}", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            module.main()
    printed = capsys.readouterr()
    return int(stop.value.code or 0), printed.out + printed.err


PASSWORDS = ["hunter/2", "hunter?2", "hunter#2", "hunter[2", "hunter@2", "hunter2"]


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("slashes", ["//", "/"])
def test_commands_never_print_a_password(
    password: str, slashes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    address = f"rtsp:{slashes}admin:{password}@127.0.0.1:9/yard"
    for command, arguments in (
        ("video", [address, "-d", "winter", "-o", "n.mp4", "--debug"]),
        ("video", [address, "http://127.0.0.1:9/b", "-d", "winter", "-o", "results", "--report", "r.json"]),
        ("live", ["--camera", address, "-d", "winter", "--no-window", "--seconds", 5, "--report", "l.json"]),
        ("live", [address, "-d", "winter"]),
    ):
        code, printed = run(capsys, command, *arguments)
        assert code == 2, printed
        assert "hunter" not in printed
        assert "admin" not in printed
        assert not [path for path in tmp_path.rglob("*") if "hunter" in path.name]
    for report in tmp_path.glob("*.json"):
        assert "hunter" not in report.read_text()
        json.loads(report.read_text())


def test_a_password_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YARD", "hun/t@r:2")
    option = "--password-env"
    assert with_password("rtsp://admin@host:554/a@b", "YARD", option) == "rtsp://admin:hun%2Ft%40r%3A2@host:554/a@b"
    assert (
        with_password("srt://host:9?mode=caller", "YARD", option)
        == "srt://host:9?mode=caller&passphrase=hun%2Ft%40r%3A2"
    )
    with pytest.raises(InputError, match="an rtmp password cannot contain"):
        with_password("rtmp://admin@host/app", "YARD", option)
    for address, words in (("rtsp://host/a", "has no user name"), ("rtsp://a:b@host/", "already has a password")):
        with pytest.raises(InputError, match=words):
            with_password(address, "YARD", option)
    with pytest.raises(InputError, match="environment variable NOWHERE is not set"):
        with_password("rtsp://admin@host/", "NOWHERE", option)


def test_the_password_reaches_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YARD", "hun/t@r:2")
    requests: list[bytes] = []

    def serve(connection: socket.socket, number: int) -> None:
        requests.append(connection.recv(65536))
        asks = b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm="x"\r\nContent-Length: 0\r\n\r\n'
        connection.sendall(asks if number == 0 else b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    with servers.connections(serve) as port, pytest.raises(InputError) as caught:
        VideoReader(with_password(f"http://admin@127.0.0.1:{port}/v", "YARD", "--password-env"))
    assert b"Basic " + base64.b64encode(b"admin:hun/t@r:2") in b"".join(requests)
    assert "hun" not in str(caught.value)


def test_passwords_in_any_text() -> None:
    text = "[Errno 5] Input/output error: 'rtsp://admin:hun@ter2@host/x' after http://host/y"
    assert without_passwords(text) == "[Errno 5] Input/output error: 'rtsp://host/x' after http://host/y"
    for advice in ("write rtsp://USER:PASSWORD@HOST/...", "write rtsp://USER@HOST/..."):
        assert without_passwords(advice) == advice
