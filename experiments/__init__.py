"""Measurements, and tables of them."""
