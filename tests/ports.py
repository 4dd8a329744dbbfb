"""Ports for servers that must be told one, and may start again on it."""

import itertools
import os
import socket

_number = itertools.count(os.getpid() * 8)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses, that this process alone is given, and that no system gives away by itself.

    What `bind(0)` and outgoing connections get lies above 32767 on Linux: it may be taken before a server is up.
    """
    while True:
        port = 12_000 + next(_number) % 20_000
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
