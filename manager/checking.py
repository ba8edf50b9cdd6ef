"""What the types of the manager's settings cannot say."""

from manager import classes, tainting
from manager.accounting import periods, sheet_documents
from manager.settings import Settings
from watari import errors, validate
from watari.identity import SpiffeId


def check(settings: Settings, own: SpiffeId) -> None:
    """Raises InvalidArgument CONFIG_INVALID for settings that a manager cannot work with."""
    try:
        validate.require_cloud_id(settings.cloud_id, "cloud_id")
        validate.require_name(settings.region, "region")
        for host_id, agent in settings.agents.items():
            validate.require_name(host_id, "agents")
            classes.require(agent.inventory, f"agents.{host_id}.inventory")
            if SpiffeId.parse(agent.spiffe_id).domain != own.domain:
                raise validate.invalid_field(
                    f"agents.{host_id}.spiffe_id", "is another provider's", f"one of {own.domain}"
                )
        classes.require_pool(settings.pool, "pool")
        tainting.ends(settings.taints, settings.taint_ends)
        for endpoint in (*settings.directories, *settings.peers.values()):
            SpiffeId.parse(endpoint.spiffe_id)
            validate.require_address(endpoint.address, "address")
        sheet_documents.from_settings(settings.prices)
        periods.month(2026, 1, settings.accounts.time_zone)
        watchers = settings.watchers_max + settings.evacuations.watchers_max
        if watchers + settings.migrations.estimates_max >= settings.rpc.workers_max:
            raise validate.invalid_field(
                "watchers_max",
                "leaves no thread for calls",
                "with evacuations.watchers_max and migrations.estimates_max less than "
                "rpc.workers_max",
            )
    except errors.InvalidArgument as error:
        raise errors.InvalidArgument(
            "CONFIG_INVALID", f"manager: {error.message}", hint=error.hint
        ) from error
