"""Disks: where content is, reading it, writing it sparsely. Raw files and block devices.

Promises: a reader never writes, holds one descriptor and no content; a writer allocates no block
for zeros. Never: knows what a transfer, a digest or a virtual machine is.
"""
