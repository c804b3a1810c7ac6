"""Every primitive as a launch of a kernel in `kernels/`; what has no kernel raises."""
