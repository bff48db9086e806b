"""The six stages of the flow, in the order of the alphabet and of the data."""
