"""Reading disks offline: pure Python over untrusted bytes, read-only, bounded; no mounts, no helper programs."""
