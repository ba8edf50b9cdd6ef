"""The transfer engine: read, skip zeros, hash, compress, seal, send; open, verify, write, sign.

docs/wire-format.md specifies every byte. `geometry`, `frames`, `keys`, `merkle` and `plan` are
pure; `sending` and `receiving` join them to disks and streams; `jobs` and `sessions` keep what
runs, `arrivals` what a crash leaves.
"""
