"""What the manager accepts from outside: shape and bounds of requests, nothing about state.

Each function returns the request it checked or raises InvalidArgument.
"""

from collections.abc import Iterable

from manager import inventory
from watari import validate, windows
from watari.identity import SpiffeId, validate_domain
from watari.v1 import common_pb2, manager_pb2

DISKS_MAX = 64
DISK_ID_BYTES_MAX = 32
FORMAT_BYTES_MAX = 32
NAME_BYTES_MAX = 256
TENANT_BYTES_MAX = 256
SPIFFE_BYTES_MAX = 512
STREAMS_MAX = 16
TRAITS_MAX = 32
TRAIT_BYTES_MAX = 64
QUOTE_BYTES_MAX = 16 * 1024
COMPRESSION_LEVELS = (-7, 19)
TTL_SECONDS = (10, 86_400)
CIPHER_KEY_BITS = (0, 128, 256)
EVACUATION_CONCURRENCY = (1, 32)
TO_CLOUDS_MAX = 16
FIRST_MAX = 1000
STOP_SECONDS_MAX = 3600
MOMENT_SECONDS_MAX = 4_102_444_800  # 2100-01-01
JUSTIFICATION_BYTES_MAX = 512
REVOCATION_BYTES_MAX = 200
STATE_DISKS = {
    common_pb2.DISK_KIND_MEMORY: "memory",
    common_pb2.DISK_KIND_NVRAM: "nvram",
    common_pb2.DISK_KIND_TPM: "tpm",
}
"""Ids of the disks that saved state travels as, by kind."""


def migrate(request: manager_pb2.MigrateVmRequest) -> manager_pb2.MigrateVmRequest:
    """Checks MigrateVm."""
    validate.require_uuid(request.migration_id, "migration_id")
    validate.require_text(request.vm, "vm", bytes_max=NAME_BYTES_MAX, empty=False)
    validate.require_cloud_id(request.to_cloud, "to_cloud")
    _options(request.options)
    _mode(request.mode)
    validate.require_range(request.quote.ByteSize(), "quote", 0, QUOTE_BYTES_MAX)
    _traits(request)
    if request.reservation_id:
        validate.require_uuid(request.reservation_id, "reservation_id")
    return request


def revoke(request: manager_pb2.RevokeDelegationRequest) -> manager_pb2.RevokeDelegationRequest:
    """Checks RevokeDelegation."""
    validate.require_uuid(request.delegation_id, "delegation_id")
    validate.require_text(request.reason, "reason", bytes_max=REVOCATION_BYTES_MAX)
    return request


def estimate(
    request: manager_pb2.EstimateMigrationRequest,
) -> manager_pb2.EstimateMigrationRequest:
    """Checks EstimateMigration."""
    validate.require_text(request.vm, "vm", bytes_max=NAME_BYTES_MAX, empty=False)
    validate.require_cloud_id(request.to_cloud, "to_cloud")
    _options(request.options)
    _mode(request.mode)
    return request


def limit(request: manager_pb2.SetMigrationLimitRequest) -> manager_pb2.SetMigrationLimitRequest:
    """Checks SetMigrationLimit."""
    validate.require_uuid(request.migration_id, "migration_id")
    validate.require_limit(request.limit_bytes_per_second, "limit_bytes_per_second")
    windows.require(request.limit_schedule, "limit_schedule")
    return request


def evacuate(
    request: manager_pb2.StartEvacuationRequest,
) -> manager_pb2.StartEvacuationRequest:
    """Checks StartEvacuation."""
    validate.require_uuid(request.evacuation_id, "evacuation_id")
    if request.host_id:
        validate.require_name(request.host_id, "host_id")
    validate.require_range(request.concurrency, "concurrency", *EVACUATION_CONCURRENCY)
    validate.require_count(len(request.to_clouds), "to_clouds", TO_CLOUDS_MAX)
    if bool(request.to_cloud) == bool(request.to_clouds):
        raise validate.invalid_field(
            "to_clouds", "say where to", f"1 to {TO_CLOUDS_MAX} clouds, and `to_cloud` unset"
        )
    for cloud_id in request.to_clouds or [request.to_cloud]:
        validate.require_cloud_id(cloud_id, "to_clouds")
    if len(set(request.to_clouds)) != len(request.to_clouds):
        raise validate.invalid_field("to_clouds", "a cloud stands twice", "each cloud once")
    validate.require_count(len(request.first), "first", FIRST_MAX)
    for key in request.first:
        validate.require_text(key, "first", bytes_max=NAME_BYTES_MAX, empty=False)
    last = windows.MINUTES_PER_DAY - 1
    validate.require_range(request.window.from_minute, "window.from_minute", 0, last)
    validate.require_range(request.window.to_minute, "window.to_minute", 0, last)
    _options(request.options)
    _mode(request.mode)
    return request


def stop(request: manager_pb2.StopVmRequest) -> manager_pb2.StopVmRequest:
    """Checks StopVm."""
    vm_key(request.vm)
    validate.require_range(request.timeout_seconds, "timeout_seconds", 0, STOP_SECONDS_MAX)
    return request


def resolve(
    request: manager_pb2.ResolveMigrationRequest,
) -> manager_pb2.ResolveMigrationRequest:
    """Checks ResolveMigration."""
    validate.require_uuid(request.migration_id, "migration_id")
    known = (manager_pb2.RESOLUTION_KEEP_HERE, manager_pb2.RESOLUTION_GIVE_UP_HERE)
    if request.resolution not in known:
        raise validate.invalid_field(
            "resolution", f"{request.resolution} is none", "KEEP_HERE or GIVE_UP_HERE"
        )
    validate.require_text(
        request.justification, "justification", bytes_max=JUSTIFICATION_BYTES_MAX, empty=False
    )
    return request


def purge(request: manager_pb2.PurgeVmRequest) -> manager_pb2.PurgeVmRequest:
    """Checks PurgeVm."""
    validate.require_uuid(request.vm_id, "vm_id")
    if request.migration_id:
        validate.require_uuid(request.migration_id, "migration_id")
    return request


def vm_key(text: str) -> str:
    """A machine's UUID or name."""
    return validate.require_text(text, "vm", bytes_max=NAME_BYTES_MAX, empty=False)


def reserve(request: manager_pb2.ReserveRequest) -> manager_pb2.ReserveRequest:
    """Checks Reserve."""
    validate.require_uuid(request.reservation_id, "reservation_id")
    validate.require_range(request.ttl_seconds, "ttl_seconds", *TTL_SECONDS)
    if request.HasField("starts_at") != request.HasField("ends_at"):
        raise validate.invalid_field("ends_at", "is set without the other", "set both, or none")
    for field in ("starts_at", "ends_at"):
        if not 0 <= getattr(request, field).seconds < MOMENT_SECONDS_MAX:
            raise validate.invalid_field(field, "is no moment to come", "a time of this century")
    return _arrival(request)


def hold(request: manager_pb2.HoldForMigrationRequest) -> manager_pb2.HoldForMigrationRequest:
    """Checks HoldForMigration, all but what the signed document says."""
    if request.HasField("delegation"):
        if request.HasField("mandate"):
            hint = "a mandate, or a standing delegation"
            raise validate.invalid_field("delegation", "comes with a mandate", hint)
        validate.require_uuid(request.migration_id, "migration_id")
        validate.require_uuid(request.vm_id, "vm_id")
        validate.require_cloud_id(request.from_cloud, "from_cloud")
    inventory.require_resources(request.resources, "resources")
    most = request.resources.disk_bytes
    validate.require_range(request.written_bytes, "written_bytes", 0, most)
    validate.require_range(request.quote.ByteSize(), "quote", 0, QUOTE_BYTES_MAX)
    _traits(request)
    return request


def quote(request: manager_pb2.IssueQuoteRequest) -> manager_pb2.IssueQuoteRequest:
    """Checks IssueQuote."""
    validate.require_uuid(request.quote_id, "quote_id")
    validate.require_text(request.tenant, "tenant", bytes_max=TENANT_BYTES_MAX)
    if request.tenant_domain:
        validate_domain(request.tenant_domain)
    inventory.require_resources(request.resources, "resources")
    return request


def grant_estimate(
    request: manager_pb2.GrantEstimateRequest,
) -> manager_pb2.ReserveRequest:
    """Checks GrantEstimate; the reservation that it asks about."""
    asked = request.reserve
    for field in ("reservation_id", "ttl_seconds", "quote", "starts_at", "ends_at"):
        if any(each.name == field for each, _ in asked.ListFields()):
            raise validate.invalid_field(
                f"reserve.{field}", "an estimate reserves nothing", "leave it unset"
            )
    return _arrival(asked)


def agent_id(text: str, field: str) -> SpiffeId:
    """An agent's SPIFFE id."""
    validate.require_text(text, field, bytes_max=SPIFFE_BYTES_MAX, empty=False)
    parsed = SpiffeId.parse(text)
    if parsed.role != "agent":
        raise validate.invalid_field(field, f"{text} is no agent", "an id with the role agent")
    return parsed


def _arrival(request: manager_pb2.ReserveRequest) -> manager_pb2.ReserveRequest:
    """The machine that is to arrive, and who asks for it."""
    for field in ("migration_id", "vm_id"):
        validate.require_uuid(getattr(request, field), field)
    validate.require_cloud_id(request.from_cloud, "from_cloud")
    validate.require_text(request.vm_name, "vm_name", bytes_max=NAME_BYTES_MAX, empty=False)
    validate.require_text(request.tenant, "tenant", bytes_max=TENANT_BYTES_MAX, empty=False)
    if request.tenant_domain:
        validate_domain(request.tenant_domain)
    validate.require_range(request.source_epoch, "source_epoch", 1, 2**62)
    inventory.require_resources(request.resources, "resources")
    _disks(request.disks, request.resources.disk_bytes)
    agent_id(request.source_agent, "source_agent")
    _traits(request)
    return request


def _traits(
    request: manager_pb2.ReserveRequest
    | manager_pb2.MigrateVmRequest
    | manager_pb2.HoldForMigrationRequest,
) -> None:
    for field in ("required_traits", "forbidden_traits"):
        traits = getattr(request, field)
        validate.require_count(len(traits), field, TRAITS_MAX)
        for trait in traits:
            validate.require_text(trait, field, bytes_max=TRAIT_BYTES_MAX, empty=False)


def _mode(mode: common_pb2.MigrationMode.ValueType) -> None:
    if mode not in common_pb2.MigrationMode.values():
        raise validate.invalid_field("mode", f"{mode} is no mode", "cold, suspend or warm")


def _options(options: common_pb2.TransferOptions) -> None:
    validate.require_range(options.streams, "options.streams", 0, STREAMS_MAX)
    level = options.compression_level
    validate.require_range(level, "options.compression_level", *COMPRESSION_LEVELS)
    validate.require_limit(options.limit_bytes_per_second, "options.limit_bytes_per_second")
    windows.require(options.limit_schedule, "options.limit_schedule")
    for name in ("downtime_seconds_target", "stop_seconds_max"):
        validate.require_range(getattr(options, name), f"options.{name}", 0, STOP_SECONDS_MAX)
    if options.cipher_key_bits not in CIPHER_KEY_BITS:
        raise validate.invalid_field(
            "options.cipher_key_bits", f"{options.cipher_key_bits} is no key length", "128 or 256"
        )


def _disks(disks: Iterable[common_pb2.DiskSpec], declared_bytes: int) -> None:
    listed = list(disks)
    validate.require_count(len(listed), "disks", DISKS_MAX)
    for disk in listed:
        validate.require_text(
            disk.disk_id, "disks.disk_id", bytes_max=DISK_ID_BYTES_MAX, empty=False
        )
        validate.require_text(disk.format, "disks.format", bytes_max=FORMAT_BYTES_MAX)
        most = inventory.AMOUNT_MAX
        validate.require_range(disk.size_bytes, "disks.size_bytes", 0, most)
        validate.require_range(disk.allocated_bytes, "disks.allocated_bytes", 0, most)
        _kind(disk)
    if len({disk.disk_id for disk in listed}) != len(listed):
        raise validate.invalid_field("disks", "a disk_id stands twice", "each disk once")
    needed = sum(disk.size_bytes for disk in listed if not disk.kind)
    if declared_bytes < needed:
        raise validate.invalid_field(
            "resources.disk_bytes",
            f"{declared_bytes} bytes, but the disks have {needed}",
            "at least the sum of the disks' sizes",
        )


def _kind(disk: common_pb2.DiskSpec) -> None:
    if not disk.kind and disk.disk_id not in STATE_DISKS.values():
        return
    if not disk.kind or STATE_DISKS.get(disk.kind) != disk.disk_id:
        raise validate.invalid_field(
            "disks.kind",
            f"{disk.disk_id} with kind {disk.kind} is no saved state that is known here",
            "memory, nvram and tpm, each with its own kind",
        )
