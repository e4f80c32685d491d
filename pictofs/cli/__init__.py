"""The command line: `pictofs …`."""
