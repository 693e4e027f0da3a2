"""The journal of ext3 and ext4 (jbd2): the blocks of which it holds newer content than the file system."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from lifsea_testbed.errors import DiskDamaged, NotJudged, Reason

MAGIC = b"\xc0\x3b\x39\x98"
_DESCRIPTOR, _COMMIT, _REVOKE = 1, 2, 5
_WIDE, _CHECKSUM_2, _CHECKSUM_3 = 0x2, 0x8, 0x10
#: The supported features: revoke, 64bit, async commit, checksums v2 and v3.
_KNOWN = 0x1 | _WIDE | 0x4 | _CHECKSUM_2 | _CHECKSUM_3
_ESCAPED, _SAME_IDENTIFIER, _LAST = 1, 2, 8
#: JBD2_FEATURE_COMPAT_CHECKSUM.
_CHECKSUM_1 = 0x1
_HEADER = 12
#: The most blocks of a transaction: jbd2 ends it at a quarter of the journal, which has at most 1 GiB.
_MOST = 1 << 20


@dataclass(frozen=True, kw_only=True)
class JournalBlock:
    """The block of the disk with newer content; `escaped` if its first bytes were replaced, being those of a header."""

    block: int
    escaped: bool


@dataclass(frozen=True, kw_only=True)
class Tag:
    """A block of the file system whose newer content follows the descriptor."""

    block: int
    flags: int


@dataclass(frozen=True, kw_only=True)
class Transaction:
    """A committed transaction: the blocks it wrote, each with its place in the journal, and those it revoked."""

    sequence: int
    written: list[tuple[int, Tag]]
    revoked: list[int]


@dataclass(frozen=True, kw_only=True)
class Head:
    """The journal's superblock: where its log starts and with which transaction; numbers of the journal's blocks."""

    first: int
    length: int
    sequence: int
    start: int
    compatible: int
    incompatible: int


def newer_blocks(read: Callable[[int], bytes], places: Mapping[int, int]) -> dict[int, JournalBlock]:
    """Returns the newer blocks of all committed transactions, without revoked ones, as the kernel's recovery does.

    `read` returns a block of the disk, `places` maps each block of the journal to its block on the disk. A transaction
    without its commit block, and all after it, are ignored. Checksums are not verified.

    Raises:
        DiskDamaged: the journal is inconsistent.
        NotJudged: it uses fast commits or another unsupported feature.
    """
    newer: dict[int, tuple[int, JournalBlock]] = {}
    revoked: dict[int, int] = {}
    try:
        for transaction in transactions(lambda number: read(places[number])):
            revoked.update(dict.fromkeys(transaction.revoked, transaction.sequence))
            for number, tag in transaction.written:
                place = JournalBlock(block=places[number], escaped=bool(tag.flags & _ESCAPED))
                newer[tag.block] = transaction.sequence, place
    except KeyError:
        raise _damaged("has holes, or ends too early") from None
    return {block: place for block, (sequence, place) in newer.items() if revoked.get(block, -1) < sequence}


def read_by_recovery(read: Callable[[int], bytes], places: Mapping[int, int]) -> set[int]:
    """Returns the blocks of the journal, by their number on the disk, whose content affects recovery (jbd2/recovery.c).

    They are its superblock, each header up to the first invalid one or one of another transaction, and committed
    content. Recovery skips a transaction without its commit block by the lengths in its descriptors.

    Raises:
        DiskDamaged: the journal is inconsistent.
        NotJudged: it uses an unsupported feature, or checksums v1, which cover all content.
    """
    seen: set[int] = set()

    def note(number: int) -> bytes:
        seen.add(number)
        return read(places[number])

    try:
        if parse_head(note(0)).compatible & _CHECKSUM_1:
            raise NotJudged("a recovery of this journal reads what was never committed", Reason.IMAGE)
        for transaction in transactions(note):
            seen.update(number for number, _ in transaction.written)
        return {places[number] for number in seen}
    except KeyError:
        raise _damaged("has holes, or ends too early") from None


def parse_head(raw: bytes) -> Head:
    """Parses the superblock of a journal.

    Raises:
        DiskDamaged: it is invalid.
        NotJudged: an unsupported feature is in use.
    """
    kind, length, first, sequence, start = struct.unpack_from(">4xI8xIIII", raw)
    compatible, incompatible = (0, 0) if kind == 3 else struct.unpack_from(">II", raw, 36)
    if raw[:4] != MAGIC or kind not in (3, 4) or not 0 < first < length or start >= length:
        raise _damaged("has no superblock")
    if incompatible & ~_KNOWN:
        raise NotJudged(f"the journal has features that are not read offline (incompat {incompatible:#x})",
                        Reason.IMAGE)
    return Head(first=first, length=length, sequence=sequence, start=start,
                compatible=compatible, incompatible=incompatible)  # fmt: skip


def transactions(read: Callable[[int], bytes]) -> Iterator[Transaction]:
    """Yields the committed transactions that are not yet checkpointed, the oldest first."""
    head = parse_head(read(0))
    place, sequence, left = head.start, head.sequence, head.length
    written: list[tuple[int, Tag]] = []
    revoked: list[int] = []
    while place and left > 0:
        block = read(place)
        magic, kind, found = struct.unpack_from(">4sII", block)
        if magic != MAGIC or found != sequence:
            return
        if len(written) + len(revoked) > _MOST:
            raise _damaged(f"has a transaction of more than {_MOST} blocks")
        tags = _tags(block, head) if kind == _DESCRIPTOR else []
        written += [(_wrapped(place + 1 + index, head), tag) for index, tag in enumerate(tags)]
        revoked += _revoked(block, head) if kind == _REVOKE else []
        if kind == _COMMIT:
            yield Transaction(sequence=sequence, written=written, revoked=revoked)
            sequence, written, revoked = (sequence + 1) & 0xFFFF_FFFF, [], []
        place, left = _wrapped(place + 1 + len(tags), head), left - 1 - len(tags)


def _wrapped(place: int, head: Head) -> int:
    return place if place < head.length else head.first + (place - head.length) % (head.length - head.first)


def _tags(block: bytes, head: Head) -> list[Tag]:
    size = 16 if head.incompatible & _CHECKSUM_3 else (12 if head.incompatible & _WIDE else 8)
    size += 2 if head.incompatible & (_CHECKSUM_2 | _CHECKSUM_3) == _CHECKSUM_2 else 0
    tags: list[Tag] = []
    place = _HEADER
    while place + size <= len(block):
        tags.append(_tag(block, place, head))
        place += size + (0 if tags[-1].flags & _SAME_IDENTIFIER else 16)
        if tags[-1].flags & _LAST:
            return tags
    # With checksums the last four bytes are the checksum, and a full block has no tag with the flag "last".
    return tags


def _tag(block: bytes, place: int, head: Head) -> Tag:
    if head.incompatible & _CHECKSUM_3:
        low, flags, high = struct.unpack_from(">III", block, place)
    else:
        low, flags = struct.unpack_from(">I2xH", block, place)
        high = struct.unpack_from(">I", block, place + 8)[0] if head.incompatible & _WIDE else 0
    return Tag(block=(high << 32 if head.incompatible & _WIDE else 0) | low, flags=flags)


def _revoked(block: bytes, head: Head) -> list[int]:
    size = 8 if head.incompatible & _WIDE else 4
    end = int(struct.unpack_from(">I", block, _HEADER)[0])
    if not 16 <= end <= len(block):
        raise _damaged("revokes more than a block can name")
    return [int.from_bytes(block[at:at + size], "big") for at in range(16, end - size + 1, size)]


def _damaged(what: str) -> DiskDamaged:
    return DiskDamaged(f"the file system's journal {what}", hint="run e2fsck -fn on that partition")
