"""Write `tf.train.Example`s to TFRecord files without TensorFlow, which the processes that encode videos needn't load.

A record consists of the length of its data (8 bytes), the checksum of the length (4 bytes), the data, and the checksum of the
data (4 bytes). An example is a protocol buffer: a map from names to lists of bytes, floats or integers
(tensorflow/core/example/example.proto).
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import google_crc32c

HEADER_BYTES, FOOTER_BYTES = 12, 4

Features = Mapping[str, tuple[type, Sequence[Any]]]
"""Maps names to (type, values); types are `bytes`, `float` (32 bits) or `int` (64 bits)."""

LENGTH_DELIMITED = 2
"""Protocol buffer wire type of all fields used here."""
KINDS = {bytes: 1, float: 2, int: 3}
"""Maps the type of the values to the number of the list's field in `tf.train.Feature`."""


def encode_example(features: Features) -> list[bytes]:
    """Serialize an example, in pieces, with its features sorted by name as in TensorFlow's deterministic serialization."""
    entries: list[bytes] = []
    for name, (kind, values) in sorted(features.items()):
        listed = _field(KINDS[kind], _LISTS[kind](values))
        entries += _field(1, [*_field(1, [name.encode()]), *_field(2, listed)])
    return _field(1, entries)


def write_record(file: Any, data: Sequence[bytes]) -> int:
    """Write a record, given in pieces, with its checksums; return the length of its data in bytes."""
    length = sum(map(len, data))
    crc = 0
    for piece in data:
        crc = google_crc32c.extend(crc, piece)
    file.writelines([header_of(length), *data, struct.pack("<I", _mask(crc))])
    return length


def header_of(length: int) -> bytes:
    """Return the bytes that precede a record's data: the length and its checksum."""
    begin = struct.pack("<Q", length)
    return begin + struct.pack("<I", masked_crc(begin))


def masked_crc(data: bytes) -> int:
    """Return the checksum used in TFRecord files: CRC-32C, rotated by 15 bits, plus a constant."""
    return _mask(google_crc32c.value(data))


def _mask(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _field(number: int, pieces: Iterable[bytes]) -> list[bytes]:
    pieces = list(pieces)
    return [_varint(number << 3 | LENGTH_DELIMITED) + _varint(sum(map(len, pieces))), *pieces]


def _varint(value: int) -> bytes:
    """Encode an integer with seven bits per byte, lowest first; negative ones as 64-bit two's complement."""
    value &= (1 << 64) - 1
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _bytes_list(values: Sequence[bytes]) -> list[bytes]:
    return [piece for value in values for piece in _field(1, [value])]


def _float_list(values: Sequence[float]) -> list[bytes]:
    return _packed([struct.pack("<f", value) for value in values])


def _int64_list(values: Sequence[int]) -> list[bytes]:
    return _packed([_varint(value) for value in values])


def _packed(values: list[bytes]) -> list[bytes]:
    return _field(1, [b"".join(values)]) if values else []


_LISTS = {bytes: _bytes_list, float: _float_list, int: _int64_list}
