"""Loops in C++ for what NumPy is slow at, compiled on first use for the processor at hand.

NumPy makes a pass over memory for each operation, and its loops along few channels are slow. A loop
here reads each array once. Each topic has a source, `norm.cpp` for one, and a class of the same
name in `norm.py` that stands before NumPy's: it computes with the loops where they can be had, and
leaves the rest to NumPy, which computes everything too.

The threads of the backend take a part of the work each: images, rows of them, or pixels. A sum over
images is taken over blocks that depend on the shapes alone, and these are added in their order.
"""
