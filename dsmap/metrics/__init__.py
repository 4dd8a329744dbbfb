"""Metrics of translations: distances between sets of images, content preservation, diversity.

`extractors` compute features; `distances`, `diversity`, `preservation` and `classifier` measure, `intervals` gives
confidence intervals. A `suite` holds the networks, an `evaluator` applies them, `comparison` and `frames` are whole
evaluations, and `report` presents their results.
"""
