"""What was decided, kept: the record of one decision and the files it is written to."""
