"""Outside data into the lake: a source's rows are checked, standardised and written by day; misfits are quarantined."""
