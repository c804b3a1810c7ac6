"""The emulated CUDA device: kernels' PTX as C++ on the CPU, under race and memory checking."""
