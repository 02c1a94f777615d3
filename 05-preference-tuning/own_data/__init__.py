"""Your own data: how it is read (read, shapes, conversations), and a second look at it (look)."""
