"""Structured logs on stderr: one JSON object a line, or text for people.

Every line carries `ts`, `level`, `event`, `service`, the `module`, and whatever
`context` bound in this thread, such as `request_id` and `migration_id`. Values under keys that name
secrets never reach the output. Lines of libraries that use `logging` take the same form.
"""

import logging
import re
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

REDACTED = "[redacted]"

NESTING_MAX = 6
"""Containers are searched for secrets this deep; what lies deeper is replaced as a whole."""

_SECRET_KEY = re.compile(r"secret|key|token|password|private", re.IGNORECASE)


def get(name: str) -> FilteringBoundLogger:
    """The logger of a module; may be made before `configure` is called."""
    return cast("FilteringBoundLogger", structlog.get_logger(module=name))


def context(**values: object) -> AbstractContextManager[None]:
    """Bind values to every line that this thread logs within the block. None binds nothing."""
    bound = {key: value for key, value in values.items() if value is not None}
    return cast("AbstractContextManager[None]", structlog.contextvars.bound_contextvars(**bound))


def bound(key: str) -> str | None:
    """What `context` bound to `key` here, or None."""
    value = structlog.contextvars.get_contextvars().get(key)
    return None if value is None else str(value)


def configure(service: str, level: str, json: bool, stream: TextIO | None = None) -> None:
    """Set up the logs of this process.

    `level` is debug, info, warning, error or critical; `stream` is stderr unless given. May be
    called again; the last call holds. Raises ValueError for an unknown level.
    """
    out = stream or sys.stderr
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"unknown log level {level!r}")
    chain, renderer = _shared_chain(service), _renderer(json, out)
    structlog.configure(
        processors=[*chain, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *chain],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    # Libraries tell us what went wrong, not what they do.
    logging.basicConfig(handlers=[handler], level=max(number, logging.WARNING), force=True)


def is_secret(key: str) -> bool:
    """Whether a value under this key is never shown."""
    return _SECRET_KEY.search(key) is not None and not key.endswith("_id")


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Processor: replace values whose key names a secret, also in nested containers."""
    return cast("EventDict", _redacted(event, NESTING_MAX))


def _shared_chain(service: str) -> list[Processor]:
    def add_service(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["service"] = service
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        add_service,
        structlog.processors.format_exc_info,
        redact,
    ]


def _renderer(json: bool, out: TextIO) -> Processor:
    if json:
        return structlog.processors.JSONRenderer(default=str)
    return structlog.dev.ConsoleRenderer(
        colors=out.isatty(), timestamp_key="ts", exception_formatter=structlog.dev.plain_traceback
    )


def _redacted(value: Any, nesting: int) -> Any:
    if isinstance(value, Mapping):
        if nesting == 0:
            return REDACTED
        return {
            key: REDACTED if is_secret(str(key)) else _redacted(inner, nesting - 1)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_redacted(inner, nesting - 1) for inner in value] if nesting else REDACTED
    return value
