"""A whole federation on this machine: two clouds, a directory and a broker, as six processes.

Promises: real servers, each with its own certificate, keys and data, talking mutual TLS over
loopback; everything lives in one private folder; starting is idempotent and starts only what is
not running; stopping never signals a process that is not the one that was started.

Never: runs a server inside this process, or touches another folder.
"""
