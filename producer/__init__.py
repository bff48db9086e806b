"""A runnable source of synthetic ticks: ``python -m producer`` fills the two topics that tickloom reads."""
