"""The cache folder: what is asked for is made once, under a name that tells what it is."""

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.images import build, measure, tree

ROOT_BYTES = 4 << 30
"""The paper's disk: 4 GiB of which about 300 MB mean anything."""

SMALL_BYTES, TINY_BYTES = 2 << 30, 512 << 20
"""The same tree on smaller disks; the smallest is for a quick run."""

ROOT_UUID = "6f0c4a52-8f4e-4d4b-9a55-0c5b8a1e7a01"
SIBLING_UUID = "b1d8e7c4-53a2-47b9-8a1f-6a3d90c2f502"
CHANGED_SHARE = 0.05
VARIABLE = "WATARI_BENCH_CACHE"


def cache_folder() -> Path:
    """$WATARI_BENCH_CACHE, or ~/.cache/watari-bench."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else Path.home() / ".cache" / "watari-bench"


class Cache:
    """Makes images when they are first asked for. Treat what it returns as read-only."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_folder()
        self.folder.mkdir(parents=True, exist_ok=True)

    def tree(self) -> Path:
        """Tar of the root tree."""
        build.need("mmdebstrap")
        return self._made("root.tar", tree.make_root)

    def root(self) -> Path:
        """4 GiB ext4 with a Debian root tree."""
        return self._ext4("root.raw", self.tree, ROOT_BYTES, ROOT_UUID)

    def small(self) -> Path:
        """2 GiB ext4 with the same tree."""
        return self._ext4("small.raw", self.tree, SMALL_BYTES, ROOT_UUID)

    def tiny(self) -> Path:
        """512 MiB ext4 with the same tree."""
        return self._ext4("tiny.raw", self.tree, TINY_BYTES, ROOT_UUID)

    def sibling(self) -> Path:
        """Another machine's disk with nine tenths of the same files."""
        return self._ext4("sibling.raw", self._sibling_tree, ROOT_BYTES, SIBLING_UUID)

    def full(self) -> Path:
        """2 GiB without a zero leaf: the content of the root image again and again, each time with
        other bytes that compress alike.
        """
        make = partial(build.make_full, root=self.root(), size_bytes=SMALL_BYTES, seed=9)
        return self._made("full.raw", make)

    def qcow2(self) -> Path:
        """The root image in a container."""
        build.need("qemu-img")
        return self._made("root.qcow2", lambda path: build.make_qcow2(path, self.root()))

    def changed(self) -> Path:
        """The root image with a twentieth of its leaves overwritten."""

        def make(path: Path) -> None:
            build.copy(self.root(), path)
            build.change(path, CHANGED_SHARE, seed=5)

        return self._made("changed.raw", make)

    def random(self, size_bytes: int) -> Path:
        """Incompressible content."""
        name = f"random-{size_bytes >> 20}m.raw"
        return self._made(name, lambda path: build.make_random(path, size_bytes, seed=3))

    def sparse(self, size_bytes: int) -> Path:
        """A size, and nearly nothing in it."""
        name = f"sparse-{size_bytes >> 20}m.raw"
        return self._made(name, lambda path: build.make_sparse(path, size_bytes))

    def compressed_bytes(self, image: Path) -> int:
        """Of `zstd -3`, measured once."""
        return self._figures(image, "zstd3", lambda: [measure.compressed_bytes(image)])[0]

    def unique_bytes(self, image: Path, known: Path) -> tuple[int, int]:
        """Bytes that `known` does not have, and compressed; measured once."""
        name = f"unique-{known.stem}"
        found = self._figures(
            image, name, lambda: list(measure.unique_compressed_bytes(image, known))
        )
        return found[0], found[1]

    def _sibling_tree(self) -> Path:
        root = self.tree()
        return self._made("sibling.tar", lambda path: tree.make_sibling(root, path))

    def _ext4(self, name: str, tar: Callable[[], Path], size_bytes: int, uuid: str) -> Path:
        build.need("mke2fs", "tar")
        return self._made(name, lambda path: build.make_ext4(path, tar(), size_bytes, uuid))

    def _made(self, name: str, make: Callable[[Path], None]) -> Path:
        path = self.folder / name
        if not path.exists():
            unfinished = path.with_name(f".{os.getpid()}.{name}")
            try:
                make(unfinished)
                unfinished.chmod(0o444)
                unfinished.replace(path)
            finally:
                unfinished.unlink(missing_ok=True)
        return path

    def _figures(self, image: Path, name: str, measured: Callable[[], list[int]]) -> list[int]:
        """Kept beside the image, and made again when the image is another one."""
        kept = image.with_suffix(f".{name}.json")
        stamp = [image.stat().st_size, image.stat().st_mtime_ns]
        if kept.exists():
            record = json.loads(kept.read_text())
            if record["image"] == stamp:
                return [int(each) for each in record["figures"]]
        figures = measured()
        kept.write_text(json.dumps({"image": stamp, "figures": figures}))
        return figures
