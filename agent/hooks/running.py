"""Runs the hooks of a stage."""

import time
from collections.abc import Sequence
from pathlib import Path

from agent.hooks import process, telling
from agent.hooks.due import Due
from agent.hooks.folder import hooks_of, refused, require_program
from agent.hooks.stages import Failure, Stage, consequences
from agent.hooks.telling import Document
from agent.hypervisors import Guest, Mode
from agent.settings import HookSettings
from watari import errors, failpoint, logs
from watari.v1 import common_pb2

BEFORE_DUE = failpoint.declare("agent.hooks.before_due")

SHOWN_CHARS_MAX = 200
"""Of a failed hook's output, in the error: its last line."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_log = logs.get(__name__)


class Hooks:
    """The hooks of this host. Without a folder there are none, and every stage passes.

    May be used from any thread; stages of different machines run side by side. Raises
    InvalidArgument CONFIG_INVALID for settings that make no sense, and for hooks that are there
    already and would not be run.
    """

    def __init__(self, settings: HookSettings, *, cloud: str, host: str, due: Path) -> None:
        """In the folder `due` is noted what is to be run after a step."""
        self._settings = settings
        self._due = Due(due)
        self._cloud = cloud
        self._host = host
        self._consequences = consequences(settings.failure)
        self._check()

    def document(
        self,
        guest: Guest,
        *,
        migration_id: str,
        mode: Mode = common_pb2.MIGRATION_MODE_UNSPECIFIED,
        peer_cloud: str = "",
        epoch: int | None = None,
        addresses: Sequence[str] = (),
    ) -> Document:
        """What the hooks are told of a machine of this host, or one that arrives at it."""
        return telling.document(
            guest,
            migration_id=migration_id,
            cloud=self._cloud,
            host=self._host,
            mode=mode,
            peer_cloud=peer_cloud,
            epoch=epoch,
            addresses=addresses,
        )

    def owe(self, stage: Stage, document: Document) -> None:
        """Notes, before a step, that hooks are to be run after it. Durable when it returns."""
        if self._settings.folder is not None:
            self._due.note(stage, document)

    def settle(self, stage: Stage, migration_id: str) -> None:
        """Runs, after a step, what was noted before it, whichever call and agent noted it. A stage
        that is running is left to whoever runs it.
        """
        with self._due.taken(stage, migration_id) as document:
            if document is not None:
                failpoint.hit(BEFORE_DUE)
                self.run(stage, document)

    def drop(self, stage: Stage, migration_id: str) -> None:
        """What was noted is not to be run any more."""
        self._due.drop(stage, migration_id)

    def run(self, stage: Stage, document: Document) -> list[errors.WatariError]:
        """Runs the hooks of a stage, one after the other; what went wrong and only warns.

        Raises FailedPrecondition HOOK_FAILED, with `stage` and `hook` in its metadata, when one
        fails or takes too long at a stage that may stop. A step that is repeated runs them again.
        """
        if self._settings.folder is None:
            return []
        warnings: list[errors.WatariError] = []
        until = time.monotonic() + self._settings.stage_seconds_max
        with logs.context(migration_id=document.migration_id or None):
            try:
                hooks = hooks_of(self._settings.folder, stage)
            except errors.FailedPrecondition as error:
                return [self._judge(stage, error)]
            for hook in hooks:
                try:
                    self._run_one(stage, hook, document.to_json(stage), until)
                except errors.FailedPrecondition as error:
                    warnings.append(self._judge(stage, error))
        return warnings

    def _judge(self, stage: Stage, error: errors.WatariError) -> errors.WatariError:
        """The error, if it only warns; raises it otherwise."""
        consequence = self._consequences[stage]
        _log.warning("hook failed", **error.metadata, then=consequence, problem=error.message)
        if consequence is Failure.STOP:
            raise error
        return error

    def _run_one(self, stage: Stage, hook: Path, document: bytes, until: float) -> None:
        require_program(stage, hook)
        settings = self._settings
        seconds_max = min(settings.seconds_max, until - time.monotonic())
        if seconds_max <= 0:
            raise refused(
                stage,
                hook,
                f"those before it took the {settings.stage_seconds_max:g} s of the stage",
                "make them faster, or raise [agent.hooks] stage_seconds_max",
            )
        try:
            ended = process.run(
                hook,
                document,
                _environ(stage),
                seconds_max=seconds_max,
                term_seconds_max=settings.term_seconds_max,
                output_bytes_max=settings.output_bytes_max,
            )
        except OSError as error:
            raise refused(
                stage, hook, error.strerror or str(error), "check its first line and its mode"
            ) from error
        text = _text(ended.output)
        _log.info(
            "hook ended",
            stage=stage,
            hook=hook.name,
            code=ended.code,
            seconds=round(ended.seconds, 3),
            output=text,
            dropped_bytes=ended.dropped_bytes,
        )
        if not ended.in_time:
            raise _failed(
                stage,
                hook,
                f"was ended after {seconds_max:.3g} s",
                "make it faster, or raise [agent.hooks] seconds_max or stage_seconds_max",
            )
        if ended.code != 0:
            how = f"exit status {ended.code}" if ended.code > 0 else f"signal {-ended.code}"
            last = text.strip().rpartition("\n")[2][-SHOWN_CHARS_MAX:]
            told = f"{how}: {last}" if last else how
            raise _failed(
                stage, hook, f"failed with {told}", "its output is in the log of the agent"
            )

    def _check(self) -> None:
        """At the start, where somebody looks: what would be refused later."""
        if self._settings.folder is None:
            return
        try:
            for stage in Stage:
                for hook in hooks_of(self._settings.folder, stage):
                    require_program(stage, hook)
        except errors.FailedPrecondition as error:
            raise errors.InvalidArgument(
                "CONFIG_INVALID", error.message, hint=error.hint
            ) from error


def _environ(stage: Stage) -> dict[str, str]:
    """All that a hook finds in its environment: nothing of the agent's own."""
    return {"PATH": _PATH, "LANG": "C.UTF-8", "HOME": "/", "WATARI_STAGE": str(stage)}


def _text(output: bytes) -> str:
    decoded = output.decode(errors="replace")
    return "".join(
        char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}"
        for char in decoded
    )


def _failed(stage: Stage, hook: Path, problem: str, hint: str) -> errors.FailedPrecondition:
    return errors.FailedPrecondition(
        "HOOK_FAILED",
        f"hook {hook.name} of stage {stage} {problem}",
        hint=hint,
        stage=stage,
        hook=hook.name,
    )
