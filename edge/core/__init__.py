"""The decisions of the edge as pure machines: no sockets, no clocks, no radio."""
