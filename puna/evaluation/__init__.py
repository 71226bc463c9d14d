"""What is measured about a model: agreement with judgements, answers, comparisons, the report.

Nothing here loads torch: a model is seen as a `Sampler` or as lists of numbers.
"""
