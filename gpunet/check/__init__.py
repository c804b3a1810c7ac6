"""``gpunet check`` finds out whether this machine's GPU computes what gpunet promises."""
