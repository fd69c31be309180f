"""How a payment is decided: request, policy, identity, engine. No web framework and no model training here."""
