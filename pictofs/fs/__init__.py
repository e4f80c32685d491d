"""The drive: what every file operation means, and its FUSE adapter."""
