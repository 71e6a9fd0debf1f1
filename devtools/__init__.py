"""What stands behind dev.py, standard library only: environment -> host -> server -> demo, each built on the one
before.
"""
