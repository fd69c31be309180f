"""Scenarios: days of a simulated bank's traffic through the real service, in minutes, while the loop reacts.

`story` is what a scenario says, `sentences` what its sentences mean, `stage` the processes, `traffic` the payments,
`play` the days, `facts` what happened, `picture` how it is shown. Dagster's part of a night is `assets.round`.
"""
