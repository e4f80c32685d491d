"""The life of a mount: building it, talking to it, taking it down."""
