"""Every primitive as a launch of a kernel in `kernels/`; an operation without a kernel raises."""
