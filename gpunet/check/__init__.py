"""Whether this machine's GPU computes what gpunet promises: ``gpunet check``."""
