"""The hot lane: the same dbt SQL on a small database in memory; an action follows in seconds."""
