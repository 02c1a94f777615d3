"""Python imports this first when its folder is on PYTHONPATH: the network is refused, and noted.

The machine itself is no network: processes of one run speak to each other over it.
"""

import errno
import os
import socket
import sys
from pathlib import Path

HERE = ("localhost", "127.0.0.1", "::1", "", None, socket.gethostname())


def guarded(call, place):
    """`call`, refused for hosts other than this one; `place` finds the host in its arguments."""

    def function(*args, **options):
        host = place(*args)
        if host in HERE or str(host).startswith("127."):
            return call(*args, **options)
        with Path(os.environ.get("NETWORK_LOG", os.devnull)).open("a", encoding="utf-8") as log:
            log.write(f"{' '.join(sys.argv[:1])} -> {host}\n")
        raise OSError(errno.ENETUNREACH, "tests have no network")

    return function


def peer(connection, *args):
    """The host that a socket is asked to reach: None for a socket that lives in the file system."""
    return None if connection.family == getattr(socket, "AF_UNIX", None) else args[-1][0]


socket.getaddrinfo = guarded(socket.getaddrinfo, lambda host, *_: host)
socket.gethostbyname = guarded(socket.gethostbyname, lambda host: host)
socket.create_connection = guarded(socket.create_connection, lambda address, *_: address[0])
for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, guarded(getattr(socket.socket, name), peer))
