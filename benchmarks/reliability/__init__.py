"""What the server withstands: overload, dead processes, bad input, new versions."""
