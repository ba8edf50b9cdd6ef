"""The hooks that are there, and that nobody but root or the agent's user can have written."""

import os
import re
import stat
from pathlib import Path

from agent.hooks.stages import Stage
from watari import errors

HOOKS_MAX = 32
"""Hooks of one stage."""

_NAME = re.compile(r"\d\d-[A-Za-z0-9._-]*[A-Za-z0-9_-]", re.ASCII)
"""Two digits, a hyphen and a name that does not end in a dot. What an editor leaves (`10-dns~`,
`.10-dns.swp`) is no hook."""

_WRITABLE = stat.S_IWGRP | stat.S_IWOTH


def hooks_of(folder: Path, stage: Stage) -> list[Path]:
    """The hooks of a stage in the order of their names; none where it has no folder.

    Raises FailedPrecondition HOOK_FAILED for what others could have written, and for what is no
    program.
    """
    of_stage = folder / f"{stage}.d"
    try:
        names = sorted(each.name for each in of_stage.iterdir() if _NAME.fullmatch(each.name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise refused(stage, of_stage, error.strerror or str(error), "make it a folder") from error
    if len(names) > HOOKS_MAX:
        raise refused(stage, of_stage, f"it has {len(names)} hooks", f"at most {HOOKS_MAX} a stage")
    if names:
        for parent in (of_stage, *of_stage.absolute().parents):
            require_private(stage, parent)
    return [of_stage / name for name in names]


def require_program(stage: Stage, hook: Path) -> None:
    """Raises FailedPrecondition HOOK_FAILED unless it is a program that may be run."""
    require_private(stage, hook)
    found = hook.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise refused(stage, hook, "it is no regular file", "put the program itself there")
    if not found.st_mode & stat.S_IXUSR:
        raise refused(stage, hook, "it is not executable", f"chmod 755 {hook}, or rename it")


def require_private(stage: Stage, path: Path) -> None:
    """Raises FailedPrecondition HOOK_FAILED for what others than root and the agent's user could
    have written. A folder in which everybody may make files but touch only their own (/tmp) is not.
    """
    try:
        found = path.lstat()
    except OSError as error:
        raise refused(stage, path, error.strerror or str(error), "look at the folder") from error
    if stat.S_ISLNK(found.st_mode):
        raise refused(stage, path, "it is a link", "put the program or folder itself there")
    if found.st_uid not in (0, os.geteuid()):
        raise refused(
            stage,
            path,
            f"it belongs to user {found.st_uid}",
            f"chown root {path}, or the user that the agent runs as",
        )
    shared = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
    if found.st_mode & _WRITABLE and not shared:
        raise refused(
            stage,
            path,
            f"others than its owner may write to it (mode {stat.S_IMODE(found.st_mode):04o})",
            f"chmod go-w {path}, after a look at what is in it",
        )


def refused(stage: Stage, path: Path, problem: str, hint: str) -> errors.FailedPrecondition:
    """The error for a hook that is not run."""
    return errors.FailedPrecondition(
        "HOOK_FAILED",
        f"hook {path} of stage {stage} is not run: {problem}",
        hint=hint,
        stage=stage,
        hook=path.name,
    )
