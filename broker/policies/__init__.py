"""Automatic placement: which machines ought to move, why, and when not. Pure.

Promises: a decision is a function of one `model.Situation`; every machine of a policy is either a
move or a stay, each with the reason in words, both numbers and the counterfactual. A move within
one plan never exceeds a budget, and no machine is in two live plans. What the rules can cost at
most, against staying, is a theorem (docs/automatic-placement.md) that the tests check exactly.

Never: reads a clock, a directory or a database; begins a migration. Who calls gives the situation
and carries out the plan; the source's manager has the last word.

`model` is the vocabulary, `forecast` looks ahead, `ledger` remembers what staying has cost,
`waiting` weighs the end of a taint, `budgets` bounds, `deciding` decides, `plans` is the life of a
plan, `messages` is the wire.
"""
