"""Steps of the schema, in order. A step that was shipped is never altered: another follows it."""
