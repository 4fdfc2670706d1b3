"""From a row change to the lines of the shapes that it belongs to. Pure: no I/O, no clock."""
