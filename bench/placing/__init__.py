"""Placement among a hundred thousand offers: how long a question takes, what changes cost."""
