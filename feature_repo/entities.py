"""The entities: who a feature speaks of, and the string that names it.

What belongs here: join keys. What does not: features (`views`).
"""

from feast import Entity, ValueType

USER = Entity(
    name="user", join_keys=["user_id"], value_type=ValueType.STRING, description="Who pays, by the bank's identifier."
)
MERCHANT = Entity(
    name="merchant",
    join_keys=["merchant_id"],
    value_type=ValueType.STRING,
    description="Who is paid, by the bank's identifier.",
)
ENTITIES = {"user": USER, "merchant": MERCHANT}
