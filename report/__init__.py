"""Formulas, tables and figures of the paper, made from results/ alone; see reproduce_tables.py."""
