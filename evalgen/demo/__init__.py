"""Demo fine-tuning runs, really trained: tiny OLMo-2 models on invented facts, in the layout of the seed runs.

`python -m evalgen.demo --output_dir outputs` builds the four runs that the README's commands read.
"""
