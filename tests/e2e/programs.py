"""What runs in the tests' pods: programs of the standard library only, short enough for `python3 -c`."""

from __future__ import annotations

SERVE = """
import socket, threading
tcp = socket.create_server(("", 8080), backlog=128)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("", 8080))
def echo():
    while True:
        data, peer = udp.recvfrom(2048)
        udp.sendto(data, peer)
def answer(connection):
    with connection:
        try:
            while data := connection.recv(2048):
                connection.sendall(data)
        except OSError:
            pass
threading.Thread(target=echo, daemon=True).start()
print("serving", flush=True)
while True:
    threading.Thread(target=answer, args=(tcp.accept()[0],), daemon=True).start()
"""
"""Echoes on port 8080, TCP and UDP."""

_ASK = """
import errno, socket
def ask(kind, address, port, seconds):
    stream = kind == "tcp"
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM) as s:
        s.settimeout(seconds)
        try:
            s.connect((address, int(port)))
            s.sendall(b"hello")
            return "ok" if s.recv(64) == b"hello" else "closed"
        except TimeoutError:
            return "timeout"
        except OSError as exc:
            return errno.errorcode.get(exc.errno, str(exc))
"""

TRY = (
    _ASK
    + """
import json, sys
print(json.dumps([ask(*target.split(","), 20) for target in sys.argv[1:]]))
"""
)
"""Arguments are kind,address,port; prints a JSON list of ok, closed, timeout or the error's name."""

FRAMES = """
import errno, socket
try:
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
    print("ok")
except OSError as exc:
    print(errno.errorcode[exc.errno])
"""
"""Asks for a socket that sends frames; prints ok or the error's name."""

FIRST = (
    """
import time
start = time.time()
"""
    + _ASK
    + """
import json, sys
said = [ask(*target.split(","), 60) for target in sys.argv[1:]]
print(json.dumps({"start": start, "end": time.time(), "said": said}), flush=True)
while True: time.sleep(60)
"""
)
"""The same as the first thing that the pod does, with the times of its first instruction and of the last answer."""

TRAFFIC = (
    _ASK
    + """
import json, sys, time
allowed, forbidden = (text.split(",") for text in sys.argv[1:3])
counts, told = {"allowed ok": 0, "forbidden refused": 0}, 0.0
while True:
    for kind in ("tcp", "udp"):
        said = ask(kind, *allowed, 60)
        counts["allowed ok"] += said == "ok"
        if said != "ok":
            print(json.dumps({"surprise": f"allowed {kind} {said}", "time": time.time()}), flush=True)
        said = ask(kind, *forbidden, 60)
        counts["forbidden refused"] += said in ("EACCES", "EPERM")
        if said not in ("EACCES", "EPERM"):
            print(json.dumps({"surprise": f"forbidden {kind} {said}", "time": time.time()}), flush=True)
    time.sleep(0.05)
    if time.time() - told > 2:
        told = time.time()
        print(json.dumps({"counts": counts, "time": told}), flush=True)
"""
)
"""Two arguments, address,port: allowed and forbidden ones without pause, TCP and UDP; a line for each surprise."""

TALK = """
import errno, socket, sys, time
address, port = sys.argv[1].split(",")
s = socket.create_connection((address, int(port)), 60)
print("connected", flush=True)
try:
    while True:
        s.sendall(b"hello")
        s.recv(64)
        time.sleep(0.5)
except OSError as exc:
    print(errno.errorcode.get(exc.errno, str(exc)), flush=True)
while True: time.sleep(60)
"""
"""One connection that talks until it is ended; then the error's name."""
