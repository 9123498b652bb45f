"""A trained model beside its controls: random weights, a head on the frozen base, a dull baseline, the last version.

`controls` makes the specs of the runs, `measuring` the records of each model on the same rows, `verdict` the intervals
and the warning. `session` trains and registers.
"""
