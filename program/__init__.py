"""What any program of this kind needs and Morphed Learning is not: settings from the command line,
files that are whole or not there, devices and processes, memory, pictures, where results come from.
"""
