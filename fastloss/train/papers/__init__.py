"""The experiments of both papers: what they printed, how their rows are trained here, and the two side by side."""
