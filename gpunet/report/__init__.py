"""Descriptions of a model: the summary of its layers, and the plan of a step's kernels."""
