"""The fast CPU path: BLAS, strided views and threads."""
