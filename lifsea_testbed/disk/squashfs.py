"""squashfs 4.0, read-only (kernel fs/squashfs/squashfs_fs.h)."""

from __future__ import annotations

import functools
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from lifsea_testbed.disk.compression import require, unpacked
from lifsea_testbed.disk.inodes import FileSystem, Inode
from lifsea_testbed.disk.source import ByteSource
from lifsea_testbed.errors import NotJudged, Reason

MAGIC = b"hsqs"
_COMPRESSORS = {1: "zlib", 2: "lzma", 3: "lzo", 4: "xz", 5: "lz4", 6: "zstd"}
#: The bytes of a block of metadata, and the bits of a length that say that a block is not compressed.
_META, _META_RAW, _DATA_RAW = 8192, 0x8000, 1 << 24
_NONE = 0xFFFFFFFF
#: The entries in a block of the tables of fragments, identifiers and attributes.
_FRAGMENTS, _IDENTIFIERS, _ATTRIBUTES = _META // 16, _META // 4, _META // 16
_DIRECTORY, _FILE, _LINK, _LONG_DIRECTORY, _LONG_FILE, _LONG_LINK = 1, 2, 3, 8, 9, 10
_KINDS = (stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK, stat.S_IFBLK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK)
_PREFIXES = {0: "user.", 1: "trusted.", 2: "security."}
#: An attribute whose value lies elsewhere, and the largest value (XATTR_SIZE_MAX).
_ELSEWHERE, _LARGEST_VALUE = 0x100, 65536
#: The most blocks of a file: 512 GiB of the default size, and the most attributes of one.
_MOST_BLOCKS, _MOST_ATTRIBUTES = 1 << 22, 1024


@dataclass(frozen=True, kw_only=True)
class SquashfsInode(Inode):
    """A file: its number is where its inode lies; `start` and `offset` are where its content is.

    Content is in blocks from `start` on, of the sizes at `sizes` behind the inode, the rest in `fragment`; of a
    directory it is in the table of directories; of a link it is behind the inode.
    """

    start: int = 0
    offset: int = 0
    fragment: int = _NONE
    sizes: int = 0
    attributes: int = _NONE


class Squashfs(FileSystem[SquashfsInode]):
    """The file system on a partition: squashfs 4.0.

    Raises:
        DiskDamaged: a structure is inconsistent.
        NotJudged: it is of another version, or compressed by an algorithm that is not read.
    """

    checker = "unsquashfs -l"

    def __init__(self, source: ByteSource) -> None:
        super().__init__()
        self._source = source
        raw = source.read_at(0, 96)
        self._size, self._fragments, compressor, log, _, self._ids, version = struct.unpack_from("<II5H", raw, 12)
        self.root, _, self._id_table, self._attribute_table, self._inode_table, self._directory_table, \
            self._fragment_table = struct.unpack_from("<7Q", raw, 32)  # fmt: skip
        if version != 4:
            raise NotJudged(f"squashfs of version {version} is not read offline", Reason.IMAGE)
        if not 12 <= log <= 20 or self._size != 1 << log:
            raise self.damaged(f"has blocks of {self._size} bytes")
        self._compressor = _COMPRESSORS.get(compressor, f"algorithm {compressor}")
        self._meta_block = functools.lru_cache(256)(self._read_meta_block)
        self._data_block = functools.lru_cache(8)(self._read_data_block)
        require(self._compressor)

    def inode(self, number: int) -> SquashfsInode:
        """Returns the inode at that place: its block in the table of inodes, and the offset in it in 16 bits."""
        kind, mode, user, group = struct.unpack("<4H", self._of_inode(number, 0, 8))
        plain = kind if kind < _LONG_DIRECTORY else kind - 7
        if not 1 <= plain <= len(_KINDS):
            raise self.damaged(f"has an inode of type {kind}")
        size, start, offset, fragment, sizes, attributes = self._fields(number, kind)
        return SquashfsInode(number=number, mode=_KINDS[plain - 1] | mode & 0o7777, user=self._identifier(user),
                             group=self._identifier(group), size=size, start=start, offset=offset, fragment=fragment,
                             sizes=sizes, attributes=attributes)  # fmt: skip

    def pieces(self, inode: SquashfsInode, start: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Yields offset and content of the blocks of a file between `start` and `end` that are no holes, in order."""
        end, size = inode.size if end is None else min(end, inode.size), self._size
        has_fragment = inode.fragment != _NONE
        count = inode.size // size if has_fragment else -(-inode.size // size)
        if count > _MOST_BLOCKS:
            raise NotJudged(f"a file of {inode.size} bytes is not read offline", Reason.IMAGE)
        place = inode.start
        sizes = struct.unpack(f"<{count}I", self._of_inode(inode.number, inode.sizes, 4 * count))
        for number, stored in enumerate(sizes):
            at = number * size
            if at >= end:
                return
            if stored and at + size > start:
                content = self._data_block(place, stored)
                if len(content) < min(size, inode.size - at):
                    raise self.damaged("has a file whose blocks are too short")
                yield max(at, start), content[max(0, start - at):end - at]
            place += stored & ~_DATA_RAW
        if has_fragment and end > count * size:
            yield from self._tail(inode, count * size, start, end)

    def attribute_values(self, inode: SquashfsInode) -> dict[str, bytes]:
        """Returns the values of a file's extended attributes by their names, sorted."""
        if inode.attributes == _NONE or self._attribute_table == (1 << 64) - 1:
            return {}
        start, count = struct.unpack("<QI", self._source.read_at(self._attribute_table, 12))
        if inode.attributes >= count:
            raise self.damaged(f"refers to attributes {inode.attributes} of {count}")
        row = self._row(self._attribute_table + 16, inode.attributes, _ATTRIBUTES, 16)
        place, number, _ = struct.unpack("<QII", row)
        if number > _MOST_ATTRIBUTES:
            raise self.damaged(f"has {number} attributes for one file")
        return dict(sorted(self._pairs(start, place, number)))

    def _target(self, inode: SquashfsInode) -> bytes:
        return self._of_inode(inode.number, inode.offset, inode.size)

    def _rows(self, directory: SquashfsInode) -> Iterator[tuple[bytes, int]]:
        """A directory has runs of entries with a header; its size counts three bytes for `.` and `..`."""
        content, at = self._meta(self._directory_table + directory.start, directory.offset, directory.size - 3), 0
        while at + 12 <= len(content):
            count, block = struct.unpack_from("<II", content, at)
            at += 12
            for _ in range(min(count, 255) + 1):
                if at + 8 > len(content):
                    raise self.damaged("has a directory that is cut short")
                offset, length = struct.unpack_from("<H4xH", content, at)
                yield content[at + 8:at + 9 + length], block << 16 | offset
                at += 9 + length

    def _fields(self, number: int, kind: int) -> tuple[int, int, int, int, int, int]:
        """Size, start, offset, fragment, place of the sizes of blocks, and attributes of an inode of that kind."""
        if kind == _DIRECTORY:
            start, size, offset = struct.unpack("<I4xHH", self._of_inode(number, 16, 12))
            return max(size, 3), start, offset, _NONE, 0, _NONE
        if kind == _LONG_DIRECTORY:
            size, start, offset, attributes = struct.unpack("<4xII6xHI", self._of_inode(number, 16, 24))
            return max(size, 3), start, offset, _NONE, 0, attributes
        if kind == _FILE:
            start, fragment, offset, size = struct.unpack("<4I", self._of_inode(number, 16, 16))
            return size, start, offset, fragment, 32, _NONE
        if kind == _LONG_FILE:
            start, size, fragment, offset, attributes = struct.unpack("<QQ12x3I", self._of_inode(number, 16, 40))
            return size, start, offset, fragment, 56, attributes
        if kind in (_LINK, _LONG_LINK):
            size, = struct.unpack("<I", self._of_inode(number, 20, 4))
            behind = self._of_inode(number, 24 + size, 4) if kind == _LONG_LINK and size <= _META else b"\xff" * 4
            return size, 0, 24, _NONE, 0, int.from_bytes(behind, "little")
        place = {11: 24, 12: 24, 13: 20, 14: 20}.get(kind)
        return 0, 0, 0, _NONE, 0, int.from_bytes(self._of_inode(number, place, 4), "little") if place else _NONE

    def _tail(self, inode: SquashfsInode, at: int, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        if inode.fragment >= self._fragments:
            raise self.damaged(f"refers to fragment {inode.fragment} of {self._fragments}")
        place, stored = struct.unpack("<QI4x", self._row(self._fragment_table, inode.fragment, _FRAGMENTS, 16))
        content = self._data_block(place, stored)[inode.offset:inode.offset + inode.size - at]
        if len(content) < inode.size - at:
            raise self.damaged("has a file that ends behind its fragment")
        yield max(at, start), content[max(0, start - at):end - at]

    def _pairs(self, start: int, place: int, number: int) -> Iterator[tuple[str, bytes]]:
        block, offset = start + (place >> 16), place & 0xFFFF
        at = 0
        for _ in range(number):
            kind, length = struct.unpack("<HH", self._meta(block, offset, at + 4)[at:])
            raw = self._meta(block, offset, at + 8 + length)[at + 4:]
            name, size = raw[:length], int.from_bytes(raw[length:], "little")
            if size > _LARGEST_VALUE:
                raise self.damaged(f"has an attribute of {size} bytes")
            at += 8 + length
            value = self._meta(block, offset, at + size)[at:]
            at += size
            if kind & _ELSEWHERE:
                value = self._value_elsewhere(start, value)
            yield _PREFIXES.get(kind & 0xFF, f"{kind & 0xFF}:") + name.decode("utf-8", "replace"), value

    def _value_elsewhere(self, start: int, reference: bytes) -> bytes:
        place = int.from_bytes(reference[:8], "little")
        block, offset = start + (place >> 16), place & 0xFFFF
        size = int.from_bytes(self._meta(block, offset, 4), "little")
        if size > _LARGEST_VALUE:
            raise self.damaged(f"has an attribute of {size} bytes")
        return self._meta(block, offset, 4 + size)[4:]

    def _identifier(self, number: int) -> int:
        if number >= self._ids:
            raise self.damaged(f"refers to owner {number} of {self._ids}")
        return int.from_bytes(self._row(self._id_table, number, _IDENTIFIERS, 4), "little")

    # Below are blocks.

    def _of_inode(self, number: int, skip: int, length: int) -> bytes:
        return self._meta(self._inode_table + (number >> 16), (number & 0xFFFF) + skip, length)

    def _row(self, table: int, number: int, per_block: int, size: int) -> bytes:
        """A row of a table, which is a list of the places of its blocks."""
        place = int.from_bytes(self._source.read_at(table + 8 * (number // per_block), 8), "little")
        return self._meta(place, number % per_block * size, size)

    def _meta(self, place: int, offset: int, length: int) -> bytes:
        """So many bytes of metadata, from that offset behind the block at that place on."""
        found = bytearray()
        while len(found) < length:
            content, following = self._meta_block(place)
            if offset < len(content):
                found += content[offset:offset + length - len(found)]
            elif len(content) < _META:
                raise self.damaged("has metadata that ends too early")
            offset, place = max(0, offset - len(content)), following
        return bytes(found)

    def _read_meta_block(self, place: int) -> tuple[bytes, int]:
        header = int.from_bytes(self._source.read_at(place, 2), "little")
        length = header & ~_META_RAW
        if not 0 < length <= _META:
            raise self.damaged(f"has a block of metadata of {length} bytes")
        data = self._source.read_at(place + 2, length)
        return data if header & _META_RAW else self._unpack(data, _META), place + 2 + length

    def _read_data_block(self, place: int, stored: int) -> bytes:
        length = stored & ~_DATA_RAW
        if length > self._size:
            raise self.damaged(f"has a block of {length} bytes")
        data = self._source.read_at(place, length)
        return data if stored & _DATA_RAW else self._unpack(data, self._size)

    def _unpack(self, data: bytes, most: int) -> bytes:
        return unpacked(self._compressor, data, most)


def is_squashfs(source: ByteSource) -> bool:
    """Returns whether a partition holds squashfs."""
    return source.size >= 96 and source.read_at(0, 4) == MAGIC
