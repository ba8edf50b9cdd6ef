"""What hosts tell about machines, read from their event logs and recorded once.

Promises: an event is recorded exactly once, however often reading it is cut off; what was lost
before it could be read is told in the audit log.

Never: decides who owns a machine or what it costs, and never changes what is recorded. When a
machine changed hands is a usage record's matter (`manager.usage`).
"""
