"""Reads, checks and compiles CUDA C++ files, without a GPU.

The emulator and `gpunet.cuda` stand on this room; it imports only the errors of the rest of gpunet.
"""
