"""The command line: a gRPC client of the federation, and the starter of a local one.

Promises: every command has the same `-o table|json`, the same exit codes (`exits`) and errors that
say what happened and what to do next, never a traceback. Machines are listed and moved through
their own clouds' managers, so this works while directory or broker is down. A migration belongs to
its source's manager: ending the command never ends the migration.

Never: imports a service (it starts them as processes), or decides what a server should decide.
"""
