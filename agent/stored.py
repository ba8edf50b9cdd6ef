"""Which images of this host arriving disks may be compared with, and whose they are."""

from pathlib import Path

from agent.disks import FORMATS
from agent.hypervisors import Hypervisor
from agent.seeds.images import Image
from watari.identity import SpiffeId
from watari.v1 import common_pb2

PUBLIC_SCOPE = "public"


def provider_of(grant: common_pb2.Grant) -> str:
    """Whose tenant's a granted machine is: the provider that sends it, and where that one says that
    the tenant is another's, that other one too. So nobody gets at what a provider's own tenants
    have by naming them, and tenants of one name at two providers stay apart.
    """
    sender = SpiffeId.parse(grant.source_agent).domain
    home = grant.tenant_domain or sender
    return sender if home == sender else f"{sender}/{home}"


def scope_of(provider: str, tenant: str) -> str:
    """The scope of what a provider's tenant has on this host: who may find out about it."""
    return f"{provider}/{tenant}"


def images(hypervisor: Hypervisor, own_domain: str, public: Path | None) -> list[Image]:
    """The disks of machines and of what is retained, and public base images."""
    found = [
        Image(
            each.disk.path,
            each.disk.format,
            scope_of(each.provider or own_domain, each.tenant),
            f"{each.vm_id}/{each.disk.disk_id}/{each.disk.path.parent.name}",
        )
        for each in hypervisor.stored()
        if each.disk.size_bytes
    ]
    if public is not None and public.is_dir():
        found += [
            Image(path, path.suffix[1:], PUBLIC_SCOPE, path.name, public=True)
            for path in sorted(public.iterdir())
            if path.suffix[1:] in FORMATS and path.is_file()
        ]
    return found
