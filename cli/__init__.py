"""The command line of neuropatch, installed as ``neuropatch.cli``."""
