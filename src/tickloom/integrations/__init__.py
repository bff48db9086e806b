"""tickloom inside of other people's schedulers; each needs its extra. They call ``tickloom.drain``, and know no daemon."""
