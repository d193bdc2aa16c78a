"""A federation of machines: one server, and sites with data of their own, over Flower with TLS and node keys."""
