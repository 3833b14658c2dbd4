"""How large a single request may be, whatever its workspace has used. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.errors import ContextTooLong, InvalidRequest
from gateway.translation.port import TokenDemand
from policies.plans import Concurrency, Limit, Plan, Rate, Unit


def capacities(limits: Iterable[Limit], unit: Unit) -> list[int]:
    """The most of a unit that each of the enforced limits can ever admit at once."""
    return [
        limit.capacity if isinstance(limit, Rate) else limit.limit
        for limit in limits
        if not isinstance(limit, Concurrency) and limit.of == unit and not limit.shadow
    ]


def check_bounds(plan: Plan, demand: TokenDemand) -> None:
    """Refuse a single request that is larger than its plan lets any be."""
    bounds = plan.request
    most_in = bounds.max_input_tokens
    longest = demand.longest_input_tokens
    tokens_in = demand.input_tokens if longest is None else longest
    if most_in is not None and tokens_in > most_in:
        # Frameworks recognise the condition by this sentence as well as by the code.
        raise ContextTooLong(
            f"This model's maximum context length is {most_in} tokens on plan"
            f" {plan.title or plan.plan}. However, your messages resulted in about"
            f" {tokens_in} tokens.",
            param=demand.input_param,
            details={"plan": plan.plan, "limit": most_in, "whose": "gateway"},
        )
    most_out = bounds.max_output_tokens
    asked = demand.max_output_tokens
    if most_out is not None and asked is not None and asked > most_out:
        raise InvalidRequest(
            f"{demand.output_param} is too large: {asked}."
            f" Plan {plan.title or plan.plan} allows at most {most_out} completion"
            " tokens.",
            param=demand.output_param,
            details={"plan": plan.plan, "limit": most_out, "whose": "gateway"},
        )
