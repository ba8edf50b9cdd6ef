"""Placement in a federation of a thousand clouds: how long a question takes, and what changes cost."""
