"""A worker that sends real files, and a receiver in memory that checks all that it is given."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import zstandard

from agent.disks import DiskReader
from agent.disks.raw import RawReader
from agent.seeds.fingerprints import Fingerprints
from agent.transfer import frames, plan
from agent.transfer.board import Board
from agent.transfer.content import block_runs, decompressed, each_digest, leaf_spans
from agent.transfer.flow import Channel, Failure
from agent.transfer.frames import Answer, Verdict
from agent.transfer.geometry import FRAME_CONTENT_BYTES_MAX, LEAF_BYTES, parent_leaves
from agent.transfer.merkle import DigestKeys, DiskTree
from agent.transfer.meter import Meter
from agent.transfer.packing import Packer
from agent.transfer.producing import Producer, Sink, SourceDisk
from watari import errors
from watari.clock import FakeClock

DIGEST_KEY = bytes(range(32))
KEYS = DigestKeys(DIGEST_KEY)
PRINTS = Fingerprints(DIGEST_KEY)

Offer = frames.ParentOffer | frames.LeavesOffer


@dataclass
class Arrived:
    """What has come of each disk, put together with what its receiver had."""

    board: Board
    disks: list[bytearray]
    came: list[frames.Frame] = field(default_factory=list)
    reject: set[tuple[int, int]] = field(default_factory=set)
    """Leaves, by disk and number, of which the first blocks that come are said not to fit."""

    def __post_init__(self) -> None:
        self._here: list[set[int]] = [set() for _ in self.disks]
        self._decompressor = zstandard.ZstdDecompressor()

    @property
    def data(self) -> list[frames.Data]:
        """The frames with content."""
        return [frame for frame in self.came if isinstance(frame, frames.Data)]

    @property
    def zeros(self) -> list[frames.Zeros]:
        """The frames with zeros."""
        return [frame for frame in self.came if isinstance(frame, frames.Zeros)]

    def wants(self, length: int) -> bool:
        """Always."""
        return length > 0

    def put(self, frame: frames.Frame) -> None:
        """Writes it down, and settles it at once."""
        self.came.append(frame)
        if isinstance(frame, frames.Zeros):
            self._write(frame.disk, frame.offset, bytes(frame.length))
        elif isinstance(frame, frames.Data):
            self._take(frame)

    def _take(self, frame: frames.Data) -> None:
        disk, content = self.disks[frame.disk], decompressed(frame, self._decompressor)
        digests, at = iter(each_digest(frame.digests)), 0
        for offset, mask, length in leaf_spans(frame, len(disk)):
            if not mask:
                continue
            leaf, digest = offset // LEAF_BYTES, next(digests)
            blocks, at = content[at : at + length], at + length
            if (frame.disk, leaf) in self.reject:
                self.reject.remove((frame.disk, leaf))
                self.board.rejected(frame.disk, leaf)
                continue
            for start, end in block_runs(mask, min(LEAF_BYTES, len(disk) - offset)):
                self._write(frame.disk, offset + start, blocks[: end - start])
                blocks = blocks[end - start :]
            assert KEYS.leaf(bytes(disk[offset : offset + LEAF_BYTES])) == digest
            self.board.settled(frame.disk, [leaf])

    def _write(self, disk: int, offset: int, content: bytes) -> None:
        blocks = set(range(offset // 4096, -(-(offset + len(content)) // 4096)))
        assert not blocks & self._here[disk], f"content at {offset} came twice"
        self._here[disk] |= blocks
        self.disks[disk][offset : offset + len(content)] = content


class Source:
    """Disks of some content in a folder, and a worker that sends them to `arrived`.

    `had` is what the receiver has of them; it has nothing of them where that is not said.
    """

    def __init__(
        self,
        folder: Path,
        contents: Sequence[bytes],
        *,
        same_offset: bool = False,
        any_offset: bool = False,
        had: Sequence[bytes] = (),
        level: int = 1,
        frame_bytes: Callable[[float], int] = lambda _: FRAME_CONTENT_BYTES_MAX,
        dry_run: bool = False,
        sparse: bool = True,
    ) -> None:
        self.paths = [folder / f"disk{number}" for number in range(len(contents))]
        for path, content in zip(self.paths, contents, strict=True):
            write_sparse(path, content) if sparse else path.write_bytes(content)
        self.readers: list[DiskReader] = [RawReader(path) for path in self.paths]
        self.trees = [DiskTree(KEYS, len(content)) for content in contents]
        self.failure = Failure()
        self.board = Board(self.failure, self._units(), dry_run=dry_run)
        self.arrived = Arrived(
            self.board, [bytearray(each) for each in had or [bytes(len(c)) for c in contents]]
        )
        self.meter = Meter(FakeClock(), sum(map(len, contents)))
        self.offers: list[Offer] = []
        self._queue: Channel[frames.Frame] = Channel(self.failure, 4)
        self._level, self._frame_bytes = level, frame_bytes
        self._disks = [
            SourceDisk(reader, tree, same_offset, any_offset)
            for reader, tree in zip(self.readers, self.trees, strict=True)
        ]

    def run(
        self, answer: Callable[[Offer], Answer] | None = None, sink: Sink | None = None
    ) -> Arrived:
        """Sends everything, and answers offers. Raises what the worker raises."""
        producer = Producer(
            self._disks,
            (KEYS, PRINTS),
            self.board,
            sink or self.arrived,
            self._queue,
            Packer(lambda: self._level),
            self._frame_bytes,
            self.meter,
            FakeClock(),
        )
        with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
            for reader in self.readers:
                stack.callback(reader.close)
            answering = pool.submit(self._answer, answer)
            try:
                producer.run()
            except errors.WatariError as error:
                self.failure.fail(error)
            finally:
                self._queue.close()
        self.failure.check()
        answering.result()
        return self.arrived

    def _answer(self, answer: Callable[[Offer], Answer] | None) -> None:
        try:
            while (offer := self._queue.get()) is not None:
                assert isinstance(offer, Offer)
                self.offers.append(offer)
                assert answer is not None, "an offer where nothing is compared"
                self.board.answered(answer(offer))
        except errors.WatariError as error:
            self.failure.fail(error)
        except BaseException:
            self.failure.fail(errors.Internal("INTERNAL", "the test's receiver broke"))
            raise

    def _units(self) -> Iterator[plan.Hole | plan.Parent]:
        for number, reader in enumerate(self.readers):
            yield from plan.units(number, reader.size, reader.extents(LEAF_BYTES, full_read=False))


def write_sparse(path: Path, content: bytes) -> None:
    """Writes a file with holes where leaves are zero."""
    with path.open("wb") as file:
        file.truncate(len(content))
        for at in range(0, len(content), LEAF_BYTES):
            if any(content[at : at + LEAF_BYTES]):
                file.seek(at)
                file.write(content[at : at + LEAF_BYTES])


def root(content: bytes) -> bytes:
    """The root of a disk with this content."""
    tree = DiskTree(KEYS, len(content))
    tree.put_leaves(0, KEYS.leaves(content))
    return tree.root()


def leaves(content: bytes) -> list[bytes]:
    """What a disk is made of."""
    return [content[at : at + LEAF_BYTES] for at in range(0, len(content), LEAF_BYTES)]


def wanting(masks: dict[int, int], size: int) -> Callable[[Offer], Answer]:
    """Opens every parent and wants these blocks, by leaf of the disk."""

    def answer(offer: Offer) -> Answer:
        if isinstance(offer, frames.ParentOffer):
            return Answer(offer.disk, offer.offset, Verdict.OPEN)
        first = offer.offset // LEAF_BYTES
        wanted = range(first, first + parent_leaves(size, offer.offset))
        masks_of = tuple(masks.get(leaf, 0) for leaf in wanted)
        return Answer(offer.disk, offer.offset, Verdict.WANT, masks_of)

    return answer
