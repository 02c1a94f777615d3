"""Python imports this first when its folder is on PYTHONPATH: attempts to reach the network are noted and refused."""

import errno
import os
import socket
import sys
from pathlib import Path


def refuse(*target, **_):
    with Path(os.environ.get("NETWORK_LOG", os.devnull)).open("a", encoding="utf-8") as log:
        log.write(f"{' '.join(sys.argv[:1])} -> {target}\n")
    raise OSError(errno.ENETUNREACH, "tests have no network")


def refuse_but_local(call):
    def method(self, *args):
        return call(self, *args) if self.family == getattr(socket, "AF_UNIX", None) else refuse(*args)

    return method


socket.getaddrinfo = socket.gethostbyname = socket.create_connection = refuse
for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, refuse_but_local(getattr(socket.socket, name)))
