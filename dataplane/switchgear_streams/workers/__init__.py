"""Several processes behind one port: each has the streams that its share of the hash names."""
