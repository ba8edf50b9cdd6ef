"""The migration saga at the source: states, decisions, actions, and the threads that drive them.

Promises: every state is on disk before anything is done in it; every action may be repeated; the
record of HANDED_OVER is the commit point, before which every path can go back and after which none
does. docs/migration.md shows the whole machine.

`states` and `steps` are pure. `records` is the rows, `actions` talks to agents and peers, `driver`
schedules.
"""
