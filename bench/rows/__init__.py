"""The rows of the table: what is measured with which methods, and what is made of the figures.

Promises: a row names its runs and computes lines from every repetition of them; the runs of a row
take turns, so that what else the machine does hits all of them alike.

Never: asserts. A target stands beside its figure, for people.
"""
