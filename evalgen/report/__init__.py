"""`report.html`: one self-contained page about one experiment, or about several side by side."""
