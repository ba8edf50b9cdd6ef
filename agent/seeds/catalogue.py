"""The indexes of this host: which are ready for a scope, which have to be made, which can go."""

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3

from agent import files
from agent.seeds import building
from agent.seeds.builds import BuildLimits, Builds, Job, Pace
from agent.seeds.fingerprints import Fingerprints
from agent.seeds.images import Identity, Image, OpenReader
from agent.seeds.index import BlockIndex
from agent.seeds.scopes import Scopes
from agent.seeds.sources import Seed, SeedSources
from watari import errors, logs
from watari.clock import Clock

__all__ = ["SEEDS_MAX", "Image", "SeedCatalogue", "SeedLimits", "SeedSources"]

SEEDS_MAX = 8
"""Images in one session's view: each costs a lookup for whatever the ones before did not have."""

IMAGES_MAX = 4096
"""Images that are kept indexed in the background, newest first."""

SUFFIX = ".sqlite"

_NAME_BYTES = 16

_log = logs.get(__name__)


@dataclass(frozen=True)
class SeedLimits:
    """How much of the host the indexes may take."""

    blocks_max: int = field(default=building.INDEX_BLOCKS_MAX, metadata={"min": 1})
    """Blocks of 4 KiB in the index of one image."""

    public_unused_seconds_max: float = field(default=30 * 86400.0, metadata={"min": 0})
    """A scope's index of a public image goes when the scope has not asked for so long."""

    builds: BuildLimits = BuildLimits()
    """How builds share the processor."""


class SeedCatalogue:
    """Keeps indexes in `folder`, a private folder of its own. Safe to share between threads.

    `images` lists this host's images at any moment; nothing is built in the background while the
    host is `busy`. Close it to end builds that sessions began.
    """

    def __init__(
        self,
        folder: Path,
        scopes: Scopes,
        images: Callable[[], Sequence[Image]],
        open_reader: OpenReader,
        clock: Clock,
        limits: SeedLimits | None = None,
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self._folder = files.ensure_folder(folder)
        self._scopes = scopes
        self._images = images
        self._open_reader = open_reader
        self._clock = clock
        self._limits = limits or SeedLimits()
        self._builds = Builds(self._build, clock, self._limits.builds, busy)
        for left in self._folder.glob(f".*{building.PARTIAL_SUFFIX}"):
            left.unlink(missing_ok=True)

    def has(self, scope: str) -> bool:
        """Whether any image is, or will be once indexed, available to this scope. Cheap."""
        return any(_may_use(scope, image) for image in self._listed())

    def sources(self, scope: str, wait_seconds_max: float) -> SeedSources:
        """What this scope may read now: the newest of its images and public ones, SEEDS_MAX in all.

        Starts building the indexes that are missing or outdated and waits so long for them; what is
        not ready then is left out. Close the view after use. Raises InvalidArgument INVALID_FIELD
        for a scope without a name.
        """
        fingerprints = self._fingerprints(scope)
        usable = [image for image in self._listed() if _may_use(scope, image)]
        images = _newest_first(usable)[:SEEDS_MAX]
        ready: dict[Image, BlockIndex] = {}

        def open_others() -> list[Image]:
            others = []
            for image in images:
                if image not in ready:
                    index = self._ready(scope, image, fingerprints)
                    if index is None:
                        others.append(image)
                    else:
                        ready[image] = index
            return others

        if missing := open_others():
            jobs = [self._job(scope, each) for each in missing]
            self._builds.wait(self._builds.ask(jobs, urgent=True), wait_seconds_max)
            open_others()
        seeds = [Seed(each, ready[each], self._open_reader) for each in images if each in ready]
        return SeedSources(seeds, fingerprints.zero)

    def refresh(self, stopping: threading.Event) -> None:
        """Makes what is missing or outdated, one image at a time, and deletes what is not needed.

        Public images are indexed when a scope asks, not here. Returns early once `stopping` is set.
        Call it again and again from one background thread.
        """
        images = self._images()
        self._sweep(images)
        jobs = []
        for image in _newest_first(images)[:IMAGES_MAX]:
            if image.public or not image.scope:
                continue
            index = self._ready(image.scope, image, self._fingerprints(image.scope))
            if index is None:
                jobs.append(self._job(image.scope, image))
            else:
                index.close()
        self._builds.ask(jobs, urgent=False)
        self._builds.drain(stopping)

    def close(self) -> None:
        """Ends builds; views that were given out stay usable."""
        self._builds.close()

    def _build(self, job: Job, pace: Pace) -> None:
        image = job.image
        started = self._clock.monotonic()
        built = building.build(
            job.target,
            image.path,
            image.format,
            self._open_reader,
            self._fingerprints(job.scope),
            pace=pace,
            blocks_max=self._limits.blocks_max,
        )
        _log.info(
            "block index built",
            image=str(image.path),
            scope=job.scope,
            blocks=built.blocks,
            seconds=round(self._clock.monotonic() - started, 3),
        )

    def _ready(self, scope: str, image: Image, fingerprints: Fingerprints) -> BlockIndex | None:
        """The index of an image as it is now; an outdated one is left for its replacement."""
        target = self._target(scope, image)
        index = BlockIndex.open(target, fingerprints.check_value)
        if index is not None and index.identity != Identity.of(image.path):
            index.close()
            return None
        if index is not None and image.public:
            with contextlib.suppress(OSError):
                os.utime(target)  # tells `_sweep` that it is in use
        return index

    def _listed(self) -> Sequence[Image]:
        """The images; none when they cannot be listed, as a session goes on without seeds."""
        try:
            return self._images()
        except (errors.WatariError, OSError) as error:
            _log.warning("images cannot be listed", error=str(error))
            return ()

    def _sweep(self, images: Sequence[Image]) -> None:
        own = {self._target(image.scope, image) for image in images if not image.public}
        public = {_image_name(image) for image in images if image.public}
        oldest = self._clock.now().timestamp() - self._limits.public_unused_seconds_max

        def needed(target: Path) -> bool:
            return target in own or target.stem.partition("-")[2] in public

        for path in self._folder.glob(f"*{SUFFIX}"):
            with contextlib.suppress(OSError):
                unused = path not in own and path.stat().st_mtime < oldest
                if unused or not needed(path):
                    path.unlink()
                    _log.info("block index deleted", index=path.name, why="not needed any more")
        self._builds.forget(needed)

    def _fingerprints(self, scope: str) -> Fingerprints:
        return Fingerprints(self._scopes.digest_key(scope))

    def _job(self, scope: str, image: Image) -> Job:
        return Job(self._target(scope, image), scope, image)

    def _target(self, scope: str, image: Image) -> Path:
        return self._folder / f"{_name(scope)}-{_image_name(image)}{SUFFIX}"


def _may_use(scope: str, image: Image) -> bool:
    return image.public or image.scope == scope


def _newest_first(images: Sequence[Image]) -> list[Image]:
    """Those that are there, by the time of their last change."""
    dated = [
        (identity.mtime_ns, image) for image in images if (identity := Identity.of(image.path))
    ]
    return [image for _, image in sorted(dated, key=lambda pair: pair[0], reverse=True)]


def _image_name(image: Image) -> str:
    return _name(image.scope, image.image_id)


def _name(*parts: str) -> str:
    """A file name: parts are names that others chose, of any length and with any characters."""
    hasher = blake3()
    for part in parts:
        raw = part.encode()
        hasher.update(len(raw).to_bytes(8, "little") + raw)
    return hasher.hexdigest(_NAME_BYTES)
