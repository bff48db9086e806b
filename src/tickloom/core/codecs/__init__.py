"""The formats of message values: the protocol in ``codec``, then one module a format."""
