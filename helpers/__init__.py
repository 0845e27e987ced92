"""The code behind the phi-and-pixels notebooks, floor by floor; a floor imports only from those above it.

parameters, paths · weights · subspaces · digits · show · press · training
"""
