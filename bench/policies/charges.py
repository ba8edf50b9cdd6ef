"""What things cost in a world: the same for every strategy, and for the audit. Pure."""

from bench.policies import world as worlds
from broker.policies.model import HOUR, MoveCost, Policy


def running(world: worlds.World, machine: worlds.Machine, cloud: str, hour: int) -> float:
    """EUR of an hour that a machine is there."""
    return machine.unit * world.clouds[cloud].levels[hour]


def estimate(
    world: worlds.World, policy: Policy, machine: worlds.Machine, way: tuple[str, str], hour: int
) -> MoveCost:
    """Of a move that begins then, from one cloud to another."""
    here, there = way
    hours = machine.wire_gib / world.goodput[way]
    # Some rounds of waiting, and what a machine writes meanwhile, over the link.
    still = 2 + 20 * world.rtt_seconds[way] + 0.02 * hours * HOUR
    return MoveCost(
        transfer_bytes=machine.wire_gib * 1024**3,
        egress=machine.wire_gib * world.clouds[here].egress_gib,
        flat=2 * worlds.FLAT,
        overlap=hours * running(world, machine, there, hour),
        downtime_seconds=still,
        downtime=still / HOUR * policy.downtime_hour_price,
    )


def duration(
    world: worlds.World, machine: worlds.Machine, way: tuple[str, str], hour: int
) -> tuple[int, bool]:
    """Whole hours that a move which begins then really takes, and whether it fails."""
    noise, fails = world.chance(machine.name, hour)
    return max(1, round(noise * machine.wire_gib / world.goodput[way])), fails


def paid(
    world: worlds.World, policy: Policy, machine: worlds.Machine, way: tuple[str, str], hour: int
) -> float:
    """EUR that a move which begins then really costs."""
    noise, fails = world.chance(machine.name, hour)
    return estimate(world, policy, machine, way, hour).total * noise * (0.5 if fails else 1.0)
