#!/usr/bin/env python3
"""A client of keyrack in one page, written from ../PROTOCOL.md alone.

With Python's standard library only. It has the environment that the page names
(KEYRACK_ADDR, KEYRACK_SERVER_KEY, KEYRACK_CERT, KEYRACK_KEY; or KEYRACK_SOCKET for
the operator's operations) and shows what a client must do: pin, greet, number its
requests, take replies in any order, pass over what it does not know.

    client.py hello                        what the appliance says of itself, as JSON
    client.py encrypt KEY [NAME=VALUE]…    standard input to a CiphertextBlob
    client.py decrypt [NAME=VALUE]…        and back
    client.py together KEY N               N plaintexts under way at once, there and back
    client.py status                       GetStatus over the Unix socket
"""
import hashlib
import json
import os
import socket
import ssl
import struct
import sys

ENCRYPT, DECRYPT, GET_STATUS = 258, 259, 1281  # operations
MESSAGE, RETRY_AFTER, REASON = 1, 2, 3  # members of an error
MOST = 1 << 20  # bytes of a reply


class Refused(Exception):
    """An error that the appliance has answered: kind, message, reason."""

    def __init__(self, kind, members):
        super().__init__(kind, members.get(MESSAGE, ""), members.get(REASON, ""))


# ---- deterministic CBOR, RFC 8949 §4.2.1 ----

def head(major, n):
    for size, code, limit in ((0, n, 24), (1, 24, 1 << 8), (2, 25, 1 << 16), (4, 26, 1 << 32), (8, 27, 1 << 64)):
        if n < limit:
            return bytes([major << 5 | code]) + (n.to_bytes(size, "big") if size else b"")
    raise OverflowError(n)


def encode(v):
    if isinstance(v, bool):
        return b"\xf5" if v else b"\xf4"
    if isinstance(v, int):
        return head(0, v) if v >= 0 else head(1, -1 - v)
    if isinstance(v, bytes):
        return head(2, len(v)) + v
    if isinstance(v, str):
        b = v.encode()
        return head(3, len(b)) + b
    if isinstance(v, list):
        return head(4, len(v)) + b"".join(map(encode, v))
    pairs = sorted((encode(k), encode(x)) for k, x in v.items())  # by the encoded keys
    return head(5, len(pairs)) + b"".join(k + x for k, x in pairs)


def decode(b):
    """Returns one item and what is behind it."""
    major, n, b = b[0] >> 5, b[0] & 31, b[1:]
    if major == 7:
        return {20: False, 21: True}[n], b
    if n >= 24:
        size = {24: 1, 25: 2, 26: 4, 27: 8}[n]
        n, b = int.from_bytes(b[:size], "big"), b[size:]
    if major < 2:
        return (n if major == 0 else -1 - n), b
    if major < 4:
        if n > len(b):
            raise ValueError("cut short")
        return (b[:n] if major == 2 else b[:n].decode()), b[n:]
    items = []
    for _ in range(n if major == 4 else 2 * n):
        item, b = decode(b)
        items.append(item)
    return (items if major == 4 else dict(zip(items[::2], items[1::2]))), b


# ---- the connection ----

def public_key(certificate):
    """The DER SubjectPublicKeyInfo in a DER certificate, RFC 5280 §4.1."""

    def element(at):  # where an element's content begins and ends
        n, at = certificate[at + 1], at + 2
        if n & 0x80:
            size = n & 0x7F
            n, at = int.from_bytes(certificate[at:at + size], "big"), at + size
        return at, at + n

    at, _ = element(element(0)[0])  # Certificate, TBSCertificate
    for _ in range(6):  # version, serialNumber, signature, issuer, validity, subject
        at = element(at)[1]
    return certificate[at:element(at)[1]]


def dial():
    """Over TLS 1.3 to a server whose key is the pinned one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the pin below counts, no name and no issuer
    context.set_alpn_protocols(["keyrack/1"])
    context.load_cert_chain(os.environ["KEYRACK_CERT"], os.environ["KEYRACK_KEY"])
    host, _, port = os.environ["KEYRACK_ADDR"].rpartition(":")
    conn = context.wrap_socket(socket.create_connection((host.strip("[]"), int(port)), timeout=10))
    key = "sha256:" + hashlib.sha256(public_key(conn.getpeercert(binary_form=True))).hexdigest()
    if key != os.environ["KEYRACK_SERVER_KEY"]:
        raise ssl.SSLError("the server's key is " + key + ", which is not the pinned one")
    return conn


def dial_local():
    conn = socket.socket(socket.AF_UNIX)
    conn.connect(os.environ["KEYRACK_SOCKET"])
    return conn


class Client:
    def __init__(self, conn):
        self.conn, self.last, self.replies = conn, 0, {}
        self.hello = self.take(0)

    def read(self, n):
        b = b""
        while len(b) < n:
            more = self.conn.recv(n - len(b))
            if not more:
                raise EOFError("the connection ended; what is unanswered may have been carried out")
            b += more
        return b

    def send(self, operation, members):
        """Returns the id of a request that is now under way."""
        self.last += 1
        frame = encode([self.last, operation, members, {}])
        self.conn.sendall(struct.pack(">I", len(frame)) + frame)
        return self.last

    def take(self, wanted):
        """Returns the members of the reply to a request; others are kept until they are asked for."""
        while wanted not in self.replies:
            n, = struct.unpack(">I", self.read(4))
            if n > MOST:
                raise ValueError("a reply of %d bytes" % n)
            (number, kind, members), rest = decode(self.read(n))
            if rest:
                raise ValueError("something follows the reply")
            if number == 0 and kind:
                raise Refused(kind, members)  # the connection's own error: it ends
            self.replies[number] = kind, members
        kind, members = self.replies.pop(wanted)
        if kind:
            raise Refused(kind, members)
        return members

    def call(self, operation, members):
        return self.take(self.send(operation, members))


def context_of(words):
    return dict(w.split("=", 1) for w in words)


def together(client, key, n):
    """Encrypts and decrypts n texts, each step with all of them under way."""
    texts = [b"text %d" % i for i in range(n)]
    ids = [client.send(ENCRYPT, {1: key, 2: t}) for t in texts]
    blobs = [client.take(i)[1] for i in reversed(ids)][::-1]
    ids = [client.send(DECRYPT, {1: b}) for b in blobs]
    back = [client.take(i) for i in ids]
    return len(set(blobs)) == n and [m[2] for m in back] == texts


def main(words):
    try:
        client = Client(dial_local() if words[0] == "status" else dial())
        if words[0] == "hello":
            h = client.hello
            print(json.dumps({"ApplianceId": h[1], "Version": h[2], "Window": h[3], "Checkpoint": h.get(4, "")}))
        elif words[0] == "encrypt":
            out = client.call(ENCRYPT, {1: words[1], 2: sys.stdin.buffer.read(), 3: context_of(words[2:])})
            sys.stdout.buffer.write(out[1])
        elif words[0] == "decrypt":
            out = client.call(DECRYPT, {1: sys.stdin.buffer.read(), 2: context_of(words[1:])})
            sys.stdout.buffer.write(out[2])
        elif words[0] == "together":
            print("OK" if together(client, words[1], int(words[2])) else "WRONG")
        elif words[0] == "status":
            print(json.dumps({str(k): v for k, v in client.call(GET_STATUS, {}).items()}))
    except Refused as e:
        kind, message, reason = e.args
        sys.exit("kind %d %s: %s" % (kind, reason, message))


if __name__ == "__main__":
    main(sys.argv[1:])
