"""On the path of the server and of all processes it starts: refuse and record whatever would leave this machine."""

import ipaddress
import os
import socket

RECORD = os.environ["OFFLINE_RECORD"]


def record(line):
    with open(RECORD, "a", encoding="utf-8") as file:
        file.write(f"{os.getpid()} {line}\n")


def is_local(host):
    if host in (None, "", b"", "localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def refusing(call, host_of):
    def guarded(*args, **kwargs):
        host = host_of(*args)
        if not is_local(host):
            record(f"wanted {host}")
            raise OSError(f"offline: {host}")
        return call(*args, **kwargs)

    return guarded


def host_of_connection(sock, address):
    return address[0] if sock.family in (socket.AF_INET, socket.AF_INET6) else None


for name in ("connect", "connect_ex"):
    setattr(socket.socket, name, refusing(getattr(socket.socket, name), host_of_connection))
for name in ("getaddrinfo", "gethostbyname"):
    setattr(socket, name, refusing(getattr(socket, name), lambda host, *_: host))
record("guarded")
