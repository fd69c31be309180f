"""Two checkouts of the service beside each other in one run: how a change moves throughput, P99 and processor time."""
