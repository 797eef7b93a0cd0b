"""How good a bundle is: one module per protocol, each with one function that gives named figures.

An evaluator takes an `Evaluation` (a bundle on some rows, its outputs computed once per set of inputs) and returns
JSON-ready figures, or raises `NotApplicable` with the reason. `protocols` lists them; `scripts.evaluate` is the command.
"""
