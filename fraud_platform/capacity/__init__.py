"""What a load costs: from measured figures and a price table to instances, memory, disk and money.

What belongs here: `figures` (what was measured), `prices`, `plan` (the arithmetic), `reference` (the design that we are
held against). What does not: measuring, which benchmarks do.
"""
