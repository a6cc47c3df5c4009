"""The science of evalgen: sampling trees, grading, and evaluation datasets. Nothing in here imports Ray."""

__version__ = "0.1.0"
