"""Hooks: what an operator's own programs do when a machine stops or starts here.

At each stage the programs of one folder are run in order, each with a JSON document on standard
input. docs/hooks.md has the document, field by field, with examples.

Promises: nothing is run that somebody else than root or the agent's user could have written; a hook
gets no secret, neither in its environment nor in the document; no hook and no stage takes longer
than its time, and nothing that a hook began outlives it, as far as it can be found; what it prints
is bounded. Hooks after a step are run at least once when the step was done.

Never: decides what becomes of a machine. A stage before something may stop it; of one after
something there is only a warning, as it has happened already.
"""

from agent.hooks.running import Hooks
from agent.hooks.stages import Failure, Stage
from agent.hooks.telling import Document, Interface, document

__all__ = ["Document", "Failure", "Hooks", "Interface", "Stage", "document"]
