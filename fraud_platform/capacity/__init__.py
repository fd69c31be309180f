"""What a load costs: from measured figures and a price table to instances, memory, disk and money.

What belongs here: `figures` (what was measured), `prices`, `queueing` and `width` (how many workers), `plan` (the
arithmetic), `reference` (the design that we are held against). What does not: measuring, which benchmarks do.
"""
