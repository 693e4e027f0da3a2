"""Protocol Buffers on the wire, as far as the CRI's messages need them (protobuf.dev, "Encoding").

A message is read without its schema: a list of values for each field number, in the order in which they came.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

Value = int | bytes
Message = dict[int, list[Value]]
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5


def encode(fields: Mapping[int, str | bytes | int]) -> bytes:
    """Returns a message of these fields; texts are UTF-8, numbers are varints."""
    parts = []
    for number, value in fields.items():
        if isinstance(value, int):
            parts.append(_varint(number << 3 | _VARINT) + _varint(value))
        else:
            data = value.encode() if isinstance(value, str) else value
            parts.append(_varint(number << 3 | _BYTES) + _varint(len(data)) + data)
    return b"".join(parts)


def decode(data: bytes) -> Message:
    """Returns the fields of a message.

    Raises:
        ValueError: the bytes are no message.
    """
    message: Message = {}
    for number, value in _fields(data):
        message.setdefault(number, []).append(value)
    return message


def text(message: Message, number: int) -> str:
    """Returns the last value of a field as text; empty if it is not there."""
    value = message.get(number, [b""])[-1]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""


def whole(message: Message, number: int) -> int:
    """Returns the last value of a field as a number; 0 if it is not there."""
    value = message.get(number, [0])[-1]
    return value if isinstance(value, int) else 0


def messages(message: Message, number: int) -> list[Message]:
    """Returns each message that a field holds."""
    return [decode(value) for value in message.get(number, []) if isinstance(value, bytes)]


def pairs(message: Message, number: int) -> dict[str, str]:
    """Returns a field that maps texts to texts."""
    return {text(entry, 1): text(entry, 2) for entry in messages(message, number)}


def _fields(data: bytes) -> Iterator[tuple[int, Value]]:
    position = 0
    while position < len(data):
        key, position = _read_varint(data, position)
        kind = key & 7
        if kind == _VARINT:
            value, position = _read_varint(data, position)
            yield key >> 3, value
            continue
        length = {_EIGHT: 8, _FOUR: 4}.get(kind)
        if length is None:
            if kind != _BYTES:
                raise ValueError(f"wire type {kind} at byte {position}")
            length, position = _read_varint(data, position)
        if position + length > len(data):
            raise ValueError(f"the message ends within field {key >> 3}")
        yield key >> 3, data[position : position + length]
        position += length


def _varint(number: int) -> bytes:
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*data, number])


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(data) and shift < 64:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if not byte & 0x80:
            return value, position
    raise ValueError(f"no number ends at byte {position}")
