"""Where a cloud's manager takes calls, and that it is its provider's own."""

from broker.values import Cloud
from watari import errors
from watari.identity import Role, SpiffeId
from watari.settings import EndpointSettings


def manager_of(cloud: Cloud) -> EndpointSettings:
    """The endpoint of the cloud's manager, as its record in the directory says.

    Raises FailedPrecondition PEER_ERROR when the record names no manager, something else than a
    manager, or a manager of another provider: whoever wrote it could else have calls for one
    provider answered by another.
    """
    try:
        spiffe_id = SpiffeId.parse(cloud.manager_spiffe_id)
    except errors.InvalidArgument as error:
        raise _refused(cloud, f"names no manager that could be called: {error.message}") from error
    if spiffe_id.role is not Role.MANAGER:
        raise _refused(cloud, f"names {spiffe_id}, which is no manager")
    if spiffe_id.domain != cloud.provider_domain:
        raise _refused(
            cloud,
            f"names a manager of {spiffe_id.domain}, its provider is {cloud.provider_domain}",
        )
    if not cloud.manager_address:
        raise _refused(cloud, "names no address of its manager")
    return EndpointSettings(address=cloud.manager_address, spiffe_id=str(spiffe_id))


def _refused(cloud: Cloud, problem: str) -> errors.FailedPrecondition:
    return errors.FailedPrecondition(
        "PEER_ERROR",
        f"the record of cloud {cloud.cloud_id} {problem}",
        hint="its provider has to publish the right record",
        cloud=cloud.cloud_id,
    )
