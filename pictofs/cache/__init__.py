"""What is known locally about the service: listings and image bytes."""
