"""Reading, checking and compiling CUDA C++ files, without a GPU: what `gpunet.cuda` and `gpunet.emulator` stand on."""
