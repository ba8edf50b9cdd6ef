"""The host's durable event log: what metering is made of.

Promises: what `EventLog.append` returned from is on stable storage, under a sequence number that
no other entry ever has; each change of a machine is recorded once, whether the hypervisor told of
it, a call brought it about, or a look found it; nothing is dropped silently.

Never: keeps a machine from starting, moving or leaving because an entry cannot be written. The next
look finds what is missing.
"""
