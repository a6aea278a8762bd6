"""What benchmarks and training both measure with: cases, peers and their formulas, interleaved timing, memory."""
