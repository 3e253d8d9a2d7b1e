"""The teacher cache: what a frozen teacher says about the training data, written once and read in every epoch.

``codec`` turns a signal into arrays and back, ``format`` is the folder on disk, ``source`` writes it and reads it as
a teacher, ``stage`` decides which stage may have one.
"""
