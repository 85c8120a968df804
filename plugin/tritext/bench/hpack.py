"""As much of HPACK (RFC 7541) as finding gRPC's status takes.

Answers are read with the promise, given by a table size of 0, that they refer to no header of an earlier answer; so
only names and values that stand there need reading.
"""

from typing import Final

_NAME: Final = b"grpc-status"
# Huffman's code for the name (RFC 7541, appendix B), as some proxies write it, and for the digits.
_CODED_NAME: Final = bytes.fromhex("9acac8b21234da8f")
_CODED_DIGITS: Final = {
    "00000": "0",
    "00001": "1",
    "00010": "2",
    "011001": "3",
    "011010": "4",
    "011011": "5",
    "011100": "6",
    "011101": "7",
    "011110": "8",
    "011111": "9",
}


def grpc_status(block: bytes) -> int | None:
    """The number that `grpc-status` has in a block of headers; None where it is not there or not legible."""
    at = 0
    try:
        while at < len(block):
            first = block[at]
            if first & 0x80:  # a header of the static table; gRPC's status is not in it
                _, at = _integer(block, at, 7)
            elif first & 0xE0 == 0x20:  # a new size of the table
                _, at = _integer(block, at, 5)
            else:
                index, at = _integer(block, at, 6 if first & 0x40 else 4)
                name, at = (b"", at) if index else _string(block, at)
                value, at = _string(block, at)
                if name in {_NAME, b"\x80" + _CODED_NAME}:
                    return int(_digits(value))
    except (IndexError, ValueError):
        return None
    return None


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    """The number in the last `bits` of a byte and those after it, and where it ends."""
    full = (1 << bits) - 1
    value = block[at] & full
    at += 1
    if value == full:
        shift = 0
        while True:
            value += (block[at] & 0x7F) << shift
            shift += 7
            at += 1
            if not block[at - 1] & 0x80:
                break
    return value, at


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    """The bytes of a string, behind a byte 0x80 where they are Huffman's code, and where it ends."""
    coded = block[at] & 0x80
    size, start = _integer(block, at, 7)
    if start + size > len(block):
        raise ValueError("a string is cut short")
    raw = block[start : start + size]
    return (b"\x80" + raw if coded else raw), start + size


def _digits(value: bytes) -> str:
    if not value.startswith(b"\x80"):
        return value.decode("ascii")
    bits = "".join(f"{byte:08b}" for byte in value[1:])
    digits, code = "", ""
    for bit in bits:
        code += bit
        if code in _CODED_DIGITS:
            digits, code = digits + _CODED_DIGITS[code], ""
    return digits  # what is left is padding
