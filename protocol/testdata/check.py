#!/usr/bin/env python3
"""Recomputes keyrack's test vectors without keyrack.

Written from ../PROTOCOL.md alone, with Python's standard library and the
openssl command (for single AES blocks), so that it shares neither code nor
misunderstandings with the implementation.

    check.py [FOLDER]       check every file of vectors; exit 1 at the first that is wrong
    check.py --self-test    also turn one digit of every line, and expect each to be noticed
"""
import functools
import hashlib
import hmac
import json
import pathlib
import re
import struct
import subprocess
import sys

INVALID, DENIED = "InvalidCiphertextException", "AccessDeniedException"
MALFORMED, TOO_LONG, RULE = "SerializationException", "RequestEntityTooLargeException", "ValidationException"
HERE = pathlib.Path(__file__).parent
KINDS = dict(re.findall(r"^\| (\d+) \| (\w+Exception) \|", (HERE / "../PROTOCOL.md").read_text(encoding="utf-8"), re.M))


class Wrong(Exception):
    """A vector is not what it says."""


# ---- cryptography ----

def kdf_input(label, context, bits, i=1):
    return struct.pack(">I", i) + label.encode() + b"\0" + context + struct.pack(">I", bits)


def kdf(key, label, context, bits):
    """SP 800-108r1 counter mode with HMAC-SHA-256."""
    blocks = range(1, (bits + 255) // 256 + 1)
    return b"".join(hmac.digest(key, kdf_input(label, context, bits, i), "sha256") for i in blocks)[:bits // 8]


@functools.lru_cache(maxsize=None)
def aes(key, blocks):
    """AES-256 of 16-byte blocks, each by itself."""
    command = ["openssl", "enc", "-aes-256-ecb", "-nopad", "-K", key.hex()]
    return subprocess.run(command, input=blocks, stdout=subprocess.PIPE, check=True).stdout


def times(x, y):
    """Product in GF(2^128), SP 800-38D, algorithm 1. Bit 127 is the coefficient of x^0."""
    z = 0
    for i in range(127, -1, -1):
        if x >> i & 1:
            z ^= y
        y = y >> 1 ^ (0xE1 << 120 if y & 1 else 0)
    return z


def ghash(h, data):
    y = 0
    for i in range(0, len(data), 16):
        y = times(y ^ int.from_bytes(data[i:i + 16], "big"), h)
    return y.to_bytes(16, "big")


def xor(a, b):
    return bytes(x ^ y for x, y in zip(a, b))


def gcm(key, iv, aad, ciphertext):
    """Returns plaintext and tag of an AES-256-GCM ciphertext (SP 800-38D, algorithm 5; 96-bit IV)."""
    pad = lambda b: b + bytes(-len(b) % 16)
    counters = b"".join(iv + struct.pack(">I", i + 1) for i in range(len(pad(ciphertext)) // 16 + 1))
    stream = aes(key, bytes(16) + counters)
    h, first, stream = stream[:16], stream[16:32], stream[32:]
    lengths = struct.pack(">QQ", 8 * len(aad), 8 * len(ciphertext))
    return xor(ciphertext, stream), xor(ghash(int.from_bytes(h, "big"), pad(aad) + pad(ciphertext) + lengths), first)


def open_message(material, key_id, context, blob):
    """Decrypts as a caller who names no key and may use only key_id. Returns the outcome and all values on the way."""
    if len(blob) < 106 or blob[0] != 1:
        return INVALID, {}
    if blob[1:17] != key_id:
        return DENIED, {}
    w = {"key-material-id": kdf(material, "i1", key_id, 256), "salt": blob[21:45], "commitment": blob[45:77],
         "iv": blob[77:89], "aad": blob[:77] + context, "ciphertext": blob[89:-16], "tag": blob[-16:]}
    w["prk"] = kdf(material, "m1", key_id + blob[17:21] + w["salt"], 256)
    split = kdf(w["prk"], "k1", b"", 512)
    w["ke"], w["kc"] = split[:32], split[32:]
    w["plaintext"], tag = gcm(w["ke"], w["iv"], w["aad"], w["ciphertext"])
    w["plain-gcm"] = tag == w["tag"]
    committed = hmac.digest(w["kc"], context, "sha256") == w["commitment"]
    good = blob[17:21] == w["key-material-id"][:4] and committed and w["plain-gcm"]
    return "ok" if good else INVALID, w


# ---- deterministic CBOR (RFC 8949, section 4.2.1) ----

class Malformed(Exception):
    pass


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        if n > len(self.data) - self.at:
            raise Malformed("input ends too early")
        self.at += n
        return self.data[self.at - n:self.at]

    def head(self):
        first = self.take(1)[0]
        major, n = first >> 5, first & 31
        if n > 27:
            raise Malformed("indefinite or reserved")
        if n >= 24:
            size = 1 << (n - 24)
            n = int.from_bytes(self.take(size), "big")
            if n < 24 or size > 1 and n < 1 << 4 * size:
                raise Malformed("not the shortest head")
        return major, n

    def item(self, depth=8):
        """One item: int, bytes, str, bool, list, or dict."""
        major, n = self.head()
        if major == 0:
            return n
        if major == 1 and n < 1 << 63:
            return -1 - n
        if major == 2:
            return self.take(n)
        if major == 3:
            return text(self.take(n))
        if major == 4 and depth > 0:
            return [self.item(depth - 1) for _ in range(n)]
        if major == 5 and depth > 0:
            return self.pairs(n, depth - 1)
        if major == 7 and n in (20, 21) and self.data[self.at - 1] == 0xE0 | n:
            return n == 21
        raise Malformed("a kind of item that has no place here")

    def pairs(self, n, depth):
        found, last = {}, b""
        for _ in range(n):
            at = self.at
            key = self.item(0)
            if type(key) not in (int, str) or self.data[at:self.at] <= last:
                raise Malformed("keys are integers or text, in ascending order of their bytes")
            last = self.data[at:self.at]
            found[key] = self.item(depth)
        return found


def text(b):
    try:
        return b.decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed("not UTF-8")


def encode(v):
    """The deterministic encoding of what Reader.item returns."""
    def head(major, n):
        if n < 24:
            return bytes([major << 5 | n])
        size = next(s for s in (0, 1, 2, 3) if n < 1 << (8 << s))
        return bytes([major << 5 | 24 + size]) + n.to_bytes(1 << size, "big")
    if isinstance(v, bool):
        return b"\xf5" if v else b"\xf4"
    if isinstance(v, int):
        return head(0, v) if v >= 0 else head(1, -1 - v)
    if isinstance(v, (bytes, str)):
        b = v.encode() if isinstance(v, str) else v
        return head(3 if isinstance(v, str) else 2, len(b)) + b
    if isinstance(v, list):
        return head(4, len(v)) + b"".join(map(encode, v))
    return head(5, len(v)) + b"".join(k + x for k, x in sorted((encode(k), encode(x)) for k, x in v.items()))


def diagnostic(v):
    """Diagnostic notation (RFC 8949, section 8)."""
    if isinstance(v, bytes):
        return "h'" + v.hex() + "'"
    if isinstance(v, list):
        return "[" + ", ".join(map(diagnostic, v)) + "]"
    if isinstance(v, dict):
        return "{" + ", ".join(f"{diagnostic(k)}: {diagnostic(x)}" for k, x in v.items()) + "}"
    return json.dumps(v, ensure_ascii=False)


# ---- frames ----

def members(v):
    """Is v a map of member numbers?"""
    return isinstance(v, dict) and all(isinstance(k, int) and k >= 0 for k in v)


def judge_request(data):
    """Returns the outcome, whom it concerns, and what was found, knowing no operation."""
    if len(data) < 4:
        return "more", "", {"need": 4}
    size = struct.unpack(">I", data[:4])[0]
    if size > 128 << 10:
        return TOO_LONG, "connection", {}
    if len(data) < 4 + size:
        return "more", "", {"need": 4 + size}
    r, scope = Reader(data[4:4 + size]), "connection"
    try:
        if r.head() != (4, 4):
            raise Malformed("not an array of four items")
        (major, request), (other, op) = r.head(), r.head()
        if major != 0 or request == 0 or other != 0 or op > 0xFFFF:
            raise Malformed("not an id and an operation")
        scope, start = "request", r.at
        body = r.item()
        end = r.at
        if not members(body) or r.item() != {} or r.at != size:
            raise Malformed("not two maps, the second without pairs")
    except Malformed:
        return MALFORMED, scope, {}
    found = {"id": request, "op": op, "body": r.data[start:end], "rest": data[4 + size:]}
    return "ok", scope, found


def judge_reply(data):
    """Returns what a client takes a reply for, knowing no operation, and its id."""
    size = struct.unpack(">I", data[:4])[0]
    r = Reader(data[4:])
    try:
        if size > 1 << 20 or size != len(r.data) or r.head() != (4, 3):
            raise Malformed("not a frame with an array of three items")
        (major, request), (other, kind) = r.head(), r.head()
        body = r.item()
        if major != 0 or other != 0 or kind > 255 or not members(body) or r.at != size:
            raise Malformed("not an id, a kind and members")
        if kind and not all(type(body.get(k, t())) is t for k, t in ((1, str), (2, int), (3, str))):
            raise Malformed("not an error")
    except Malformed:
        return "malformed", None
    return ("ok" if kind == 0 else KINDS.get(str(kind), str(kind))), request


# ---- the files ----

class Vector(dict):
    def hex(self, name):
        return bytes.fromhex(self[name])

    def same(self, name, got):
        """Compares a value with the line that must be there."""
        got = got.hex() if isinstance(got, bytes) else str(got)
        if self.get(name) != got:
            raise Wrong(f"{name}: computed {got}, the file has {self.get(name)}")


def check_kdf(v):
    context, bits = v.hex("context"), int(v["bits"])
    v.same("input", kdf_input(v["label"], context, bits))
    v.same("output", kdf(v.hex("key"), v["label"], context, bits))
    v.same("expect", "ok")


def check_context(v):
    r, got = Reader(v.hex("context")), "ok"
    try:
        pairs = r.item()
        if not isinstance(pairs, dict) or not all(isinstance(s, str) for kv in pairs.items() for s in kv):
            raise Malformed("not a map of text to text")
        if r.at > 8192:
            got = RULE
        if "pairs" in v and pairs != json.loads(v["pairs"]):
            raise Wrong(f"the context holds {pairs}")
        v.same("context", encode(pairs))
    except Malformed:
        got = MALFORMED
    v.same("expect", got)


def check_message(v):
    context = v.hex("context")
    got, way = open_message(v.hex("material"), v.hex("key-id"), context, v.hex("blob"))
    v.same("expect", got)
    if "pairs" in v:
        v.same("context", encode(json.loads(v["pairs"])))
    if got == "ok" or "plain-gcm" in v:
        for name in way if got == "ok" else ("plaintext",):
            if name != "plain-gcm":
                v.same(name, way[name])
        if not way["plain-gcm"]:
            raise Wrong("AES-GCM alone does not open it")


def check_frame(v):
    got, scope, found = judge_request(v.hex("frame"))
    v.same("expect", got)
    if got not in ("ok", "more"):
        v.same("scope", scope)
    for name in found:
        v.same(name, found[name])


def check_request(v):
    """What an operation makes of its members is not known here; that they are there is."""
    got, _, found = judge_request(v.hex("frame"))
    if got != "ok":
        raise Wrong(f"the frame is {got}")
    v.same("id", found["id"])
    v.same("op", found["op"])
    item = Reader(v.hex("frame")[4:]).item()
    v.same("diag", diagnostic(item))
    if "same-as" in v:
        other = Reader(v.hex("same-as")[4:]).item()
        if judge_request(v.hex("same-as"))[0] != "ok" or other[:2] != item[:2] or not other[2].items() <= item[2].items():
            raise Wrong("same-as says something else")


def check_reply(v):
    got, request = judge_reply(v.hex("frame"))
    v.same("expect", got)
    if request is not None:
        v.same("id", request)
    if "diag" in v:
        v.same("diag", diagnostic(Reader(v.hex("frame")[4:]).item()))


FILES = {"kdf.txt": check_kdf, "contexts.txt": check_context, "messages.txt": check_message,
         "frames.txt": check_frame, "requests.txt": check_request, "replies.txt": check_reply}


def read(path):
    for block in path.read_text(encoding="utf-8").split("\n\n"):
        lines = [line.partition(":") for line in block.splitlines() if line and line[0] != "#"]
        if lines:
            yield Vector((name, value[1:]) for name, _, value in lines)


def run(check, v):
    """Returns what is wrong with v, or None."""
    try:
        check(v)
    except Wrong as e:
        return str(e)
    except (Malformed, ValueError, KeyError, IndexError, struct.error) as e:
        return f"{type(e).__name__}: {e}"
    return None


def turned(v):
    """Copies of v, each with one digit of one line turned."""
    for name, value in v.items():
        if name in ("vector", "why", "expect", "of", "label", "scope", "plain-gcm") or value == "":
            continue
        at = len(value) // 2
        digit = "0" if value[at] != "0" else "1"
        yield name, Vector(v, **{name: value[:at] + digit + value[at + 1:]})


def self_test(check, v):
    """Returns a line of v that may be changed without being noticed, or None. Damaged vectors stay damaged."""
    for name, other in turned(v):
        if v["expect"] == "ok" and run(check, other) is None:
            return f"a turned digit in {name} goes unnoticed"
    return None


def main(args):
    thorough = "--self-test" in args
    folders = [pathlib.Path(a) for a in args if a != "--self-test"] or [HERE / "vectors"]
    count = 0
    for folder in folders:
        for file, check in FILES.items():
            for v in read(folder / file):
                wrong = run(check, v) or thorough and self_test(check, v)
                if wrong:
                    sys.exit(f"{folder / file}: {v['vector']}: {wrong}")
                count += 1
    print(count, "vectors are what they say")


if __name__ == "__main__":
    main(sys.argv[1:])
