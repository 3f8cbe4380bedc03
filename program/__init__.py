"""What any program of this kind needs and Morphed Learning is not: settings from the command line,
files that are whole or not there, memory, pictures, and what a result says of where it came from.
"""
