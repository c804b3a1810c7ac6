"""Descriptions of a model: the summary of its layers, and the plan of the kernels that one step launches."""
