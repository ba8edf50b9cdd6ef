"""Placing many machines at once: one problem over arrays, three ways to solve it.

Promises: an assignment never exceeds a place's room, its largest machine, what is allowed to a
machine, or a group's rule, whichever solver made it; a bound is proven, and no solution of the
problem is cheaper; who is left out is told why.

Never: asks the directory, reads a clock other than the one given, or moves anything. `adapter`
alone knows the broker's snapshot and its constraints; `problem`, `checking`, `greedy`, `polish`,
`milp`, `stable`, `rotations` and `solve` know arrays.
"""
