"""Predicts how long launches take on a GPU, from their machine code, on a machine without one.

`gpus` describes GPUs and tells how many blocks a multiprocessor holds. `machine_code` compiles an
instance and finds its main loop, `simulator` issues the loop's instructions on a multiprocessor,
and `model` makes times of the turns. What is assumed and not computed stands in `kernels`.
"""
