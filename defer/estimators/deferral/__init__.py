"""Learning to defer: routers whose first arm is the system's own prediction, and whose other arms are experts."""
