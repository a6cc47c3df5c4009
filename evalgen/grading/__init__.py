"""Judges completions: offline graders for closed answers, Claude for the rest, and the limits they share."""
