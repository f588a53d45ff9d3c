"""One end of a stream of checked data in both directions. REPORT holds how many bytes were received and sent, REPORT.err what went wrong.

stream.py REPORT serve FAMILY           writes its port to REPORT.port and takes one connection
stream.py REPORT connect FAMILY PORT"""
import os
import select
import socket
import struct
import sys
import time

PERIOD = 65521
PATTERN = bytes((n * n >> 5 ^ n) & 255 for n in range(PERIOD)) * 2
PIECE = 20000
ADDRESS = {"4": "127.0.0.1", "6": "::1", "mapped": "::ffff:127.0.0.1"}


def piece(position, size):
    return PATTERN[position % PERIOD:position % PERIOD + size]


def stream(link, report):
    received = sent = 0
    link.setblocking(False)
    while True:
        readable, writable, _ = select.select([link], [link], [], 1)
        if readable:
            data = link.recv(PIECE)
            if not data:
                raise EOFError("it has ended")
            if data != piece(received, len(data)):
                raise ValueError(f"wrong data behind byte {received}")
            received += len(data)
        if writable:
            sent += link.send(piece(sent, PIECE))
        os.pwrite(report, struct.pack("QQ", received, sent), 0)
        time.sleep(0.001)


def main():
    path, what, family = sys.argv[1:4]
    kind, address = socket.AF_INET if family == "4" else socket.AF_INET6, ADDRESS[family]
    report = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    if what == "serve":
        listener = socket.socket(kind)
        listener.bind((address, 0))
        listener.listen()
        with open(path + ".new", "w") as file:
            file.write(str(listener.getsockname()[1]))
        os.rename(path + ".new", path + ".port")
        link = listener.accept()[0]
    else:
        link = socket.socket(kind)
        link.connect((address, int(sys.argv[4])))
    stream(link, report)


main()
