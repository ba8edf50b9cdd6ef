"""The hard constraints on a whole cloud, one function each, and the table of them. Pure.

A constraint yields a `Miss` for each way in which a cloud does not meet it, and nothing when it
does. The names in the table are part of the contract; docs/placement.md lists them.
"""

import math
from collections.abc import Callable, Iterator, Mapping

from broker import endpoints
from broker.criteria import Criteria, ImageNeed
from broker.question import Miss, Question, cut, distance, listed, stale
from broker.snapshot import Cloud
from watari import errors, units

Constraint = Callable[[Question, Cloud], Iterator[Miss]]


def asked_for(question: Question, cloud: Cloud) -> Iterator[Miss]:
    wanted = question.criteria.clouds
    if wanted and cloud.cloud_id not in wanted:
        yield Miss(
            f"is not among the clouds asked for ({listed(wanted)})",
            f"fits with {cloud.cloud_id} among clouds",
        )


def not_excluded(question: Question, cloud: Cloud) -> Iterator[Miss]:
    if cloud.cloud_id in question.criteria.excluded_clouds:
        yield Miss(
            "is excluded by the request", f"fits without {cloud.cloud_id} among excluded_clouds"
        )


def not_the_source(question: Question, cloud: Cloud) -> Iterator[Miss]:
    if cloud.cloud_id == question.criteria.source_cloud:
        yield Miss("is where the machine is already")


def jurisdiction(question: Question, cloud: Cloud) -> Iterator[Miss]:
    wanted = question.criteria.jurisdictions
    if wanted and cloud.jurisdiction not in wanted:
        if not cloud.jurisdiction:
            yield Miss(f"names no jurisdiction, wanted is {listed(wanted)}")
        else:
            yield Miss(
                f"is under the law of {cut(cloud.jurisdiction)}, wanted is {listed(wanted)}",
                f"fits with {cut(cloud.jurisdiction)} among jurisdictions",
            )


def fresh_cloud(question: Question, cloud: Cloud) -> Iterator[Miss]:
    if cloud.stale:
        yield stale(question, "the cloud's record", cloud.updated_at)


def untainted(_question: Question, cloud: Cloud) -> Iterator[Miss]:
    if cloud.taints:
        yield Miss(
            f"its provider keeps new machines away ({listed(cloud.taints)})",
            "fits once its provider removes the taint",
        )


def reachable_manager(_question: Question, cloud: Cloud) -> Iterator[Miss]:
    try:
        endpoints.manager_of(cloud)
    except errors.WatariError as error:
        yield Miss(error.message)


def near_the_source(question: Question, cloud: Cloud) -> Iterator[Miss]:
    limit, source = question.criteria.rtt_ms_max, question.criteria.source_cloud
    if limit is None or source is None or source == cloud.cloud_id:
        return
    rtt_ms, _ = distance(question, source, cloud.cloud_id)
    yield from _too_far(source, cloud.cloud_id, rtt_ms, limit)


def _too_far(near: str, cloud_id: str, rtt_ms: float | None, limit: float) -> Iterator[Miss]:
    if rtt_ms is None:
        yield Miss(
            f"no measured link between {near} and {cloud_id}, limit is {limit:g} ms",
            "fits without rtt_ms_max",
        )
    elif rtt_ms > limit:
        rtt = math.ceil(rtt_ms * 100) / 100
        yield Miss(
            f"round trip from {near} is {rtt} ms, limit is {limit:g} ms",
            f"fits with rtt_ms_max of {rtt} or more",
        )


def provider(question: Question, cloud: Cloud) -> Iterator[Miss]:
    wanted = question.criteria.providers
    if wanted and cloud.provider_domain not in wanted:
        yield Miss(
            f"is {cut(cloud.provider_domain)}'s, wanted is {listed(wanted)}",
            f"fits with {cut(cloud.provider_domain)} among providers",
        )


def not_excluded_provider(question: Question, cloud: Cloud) -> Iterator[Miss]:
    if cloud.provider_domain in question.criteria.excluded_providers:
        yield Miss(
            f"is {cut(cloud.provider_domain)}'s, which is excluded by the request",
            f"fits without {cut(cloud.provider_domain)} among excluded_providers",
        )


def residency(question: Question, cloud: Cloud) -> Iterator[Miss]:
    """Of every cloud that would hold the machine's data if it went there."""
    criteria = question.criteria
    if not criteria.residency:
        return
    problem = _resident(criteria, cloud.cloud_id, cloud.jurisdiction)
    if problem is not None:
        yield problem
    for held, why in holders(criteria):
        known = question.snapshot.clouds.get(held)
        problem = _resident(criteria, held, known.jurisdiction if known else "", why)
        if problem is not None:
            yield problem


def holders(criteria: Criteria) -> Iterator[tuple[str, str]]:
    """Clouds that hold the machine's data wherever it goes, and what they hold."""
    if criteria.source_cloud is not None:
        yield criteria.source_cloud, "which retains the disks as rollback target"
    for cloud_id in criteria.copy_clouds:
        yield cloud_id, "which holds copies"


def _resident(criteria: Criteria, cloud_id: str, found: str, why: str = "") -> Miss | None:
    if found in criteria.residency:
        return None
    wanted = listed(criteria.residency)
    if not found:
        subject = f"{cloud_id}, {why}," if why else "it"
        return Miss(f"{subject} names no jurisdiction, data may be in {wanted}")
    remedy = f"fits with {cut(found)} among residency_jurisdictions"
    if why:
        return Miss(f"{cloud_id}, {why}, is in {cut(found)}, data may be in {wanted}", remedy)
    return Miss(f"would hold the data in {cut(found)}, data may be in {wanted}", remedy)


def links(question: Question, cloud: Cloud) -> Iterator[Miss]:
    """Only where the destination is another cloud than the one that it must be near to."""
    for limit in question.criteria.links:
        if limit.cloud_id == cloud.cloud_id:
            continue
        rtt_ms, throughput = distance(question, limit.cloud_id, cloud.cloud_id)
        if limit.rtt_ms_max is not None:
            yield from _too_far(limit.cloud_id, cloud.cloud_id, rtt_ms, limit.rtt_ms_max)
        if throughput is None and limit.throughput_min:
            yield Miss(
                f"no measured throughput between {limit.cloud_id} and {cloud.cloud_id}, "
                f"at least {units.format_bytes(limit.throughput_min)}/s are wanted",
                f"fits without a throughput to {limit.cloud_id}",
            )
        elif throughput is not None and throughput < limit.throughput_min:
            yield Miss(
                f"throughput to {limit.cloud_id} is {throughput} B/s, "
                f"wanted are {limit.throughput_min} B/s",
                f"fits with {throughput} B/s or less to {limit.cloud_id}",
            )


def images(question: Question, cloud: Cloud) -> Iterator[Miss]:
    for need in question.criteria.images:
        if need.required and not holds_image(cloud, need):
            yield Miss(
                f"does not hold {cut(str(need))}", f"fits without requiring {cut(str(need))}"
            )


def holds_image(cloud: Cloud, need: ImageNeed) -> bool:
    """Whether a cloud has a fresh record of an image."""
    return any(
        not image.stale and need.key in (image.public_root, image.name) for image in cloud.images
    )


def delegated(question: Question, cloud: Cloud) -> Iterator[Miss]:
    named = question.criteria.to_clouds
    if named and cloud.cloud_id not in named:
        yield Miss(
            f"the delegation lets the machine go to {listed(named)}",
            "fits with a delegation that names it",
        )


def sells_something(_question: Question, cloud: Cloud) -> Iterator[Miss]:
    if not cloud.offers:
        yield Miss("publishes no offer")


CONSTRAINTS: Mapping[str, Constraint] = {
    "cloud": asked_for,
    "excluded_cloud": not_excluded,
    "source": not_the_source,
    "jurisdiction": jurisdiction,
    "stale": fresh_cloud,
    "taint": untainted,
    "manager": reachable_manager,
    "rtt": near_the_source,
    "provider": provider,
    "excluded_provider": not_excluded_provider,
    "residency": residency,
    "link": links,
    "image": images,
    "delegation": delegated,
    "offer": sells_something,
}
"""What a whole cloud must meet; a miss keeps all of its offers out."""
