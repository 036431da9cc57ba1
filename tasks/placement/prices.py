"""What an hour of an instance type costs: by the user's own file, for there is no price that Slipway could know."""

from __future__ import annotations

from pydantic import Field

from tasks.contracts import Contract


class HourlyPrice(Contract):
    """The price of one machine for one hour. Amounts in different currencies are never compared."""

    amount: float = Field(gt=0, allow_inf_nan=False)
    currency: str = Field(description="ISO 4217, e.g. USD")


def known_prices() -> dict[str, HourlyPrice]:
    """Instance type → price, for the types of the catalogue that have one.

    Raises:
        BadInput: the catalogue, or the user's own file, does not hold.
    """
    from tasks.smoke.catalogue import load_catalogue

    return {
        name: HourlyPrice(amount=kind.price.per_hour, currency=kind.price.currency)
        for name, kind in load_catalogue().items()
        if kind.price is not None
    }
