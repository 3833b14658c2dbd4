"""What refuses a demand, told by two ways that must agree."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policies.ledger import KeyScope, Usage
from policies.plans import Concurrency, KeyLimits, Plan, Quota, Rate
from policies.workspace_usage import WorkspaceUsage, charge

PLAN = Plan(
    plan="p",
    concurrency=Concurrency(limit=2),
    rates=(
        Rate(of="requests", limit=7, per="minute"),
        Rate(of="tokens", limit=100, per="second", shadow=True),
    ),
    quotas=(Quota(of="tokens", limit=300, per="hour"),),
)
KEY = KeyScope("k", KeyLimits(rates=(Rate(of="tokens", limit=90, per="minute"),)))

usages = st.builds(Usage, st.integers(0, 9), st.integers(0, 400))


@given(
    spent=st.lists(st.tuples(usages, st.integers(0, 40_000_000)), max_size=6),
    demanded=usages,
    held=st.integers(0, 3),
)
def test_what_is_left_and_what_fits_say_the_same(
    spent: list[tuple[Usage, int]], demanded: Usage, held: int
) -> None:
    """Overdrawn limits, demands for none of their units and windows' ends included."""
    now_us, usage = 0, WorkspaceUsage()
    for charged, passed_us in spent:
        in_force = usage.follow(PLAN, KEY, now_us)
        lease = charge(charged, in_force, [], now_us, now_us)
        if usage.held > held:
            lease.take_places(-1)
        now_us += passed_us

    in_force = usage.follow(PLAN, KEY, now_us)
    short = in_force.short_of(in_force.states(now_us), demanded)

    assert [slot for slot, _ in short] == in_force.refusing(demanded, now_us)
