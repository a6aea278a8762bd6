"""The trainer: real images in, one loop, masks out. The losses never import it; it needs the `demo` extra."""
