"""Measures Watari and its peers over an emulated long-distance link.

Promises: peers take turns in one run, every repetition is in the JSON file, and a result that is
not identical to its source is reported as such.

Never: asserts that anything is fast, or leaves processes and namespaces behind.
"""

import watari.tls  # noqa: F401 - before grpc is imported anywhere
