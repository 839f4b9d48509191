"""Routers, one module a system."""
