"""The client of the service: the only rooms that speak HTTP."""
