"""The BentoML service: transport, routes and start-up. What a decision is stands in `fraud_platform.decision`."""
