"""Benchmarks: `fastloss bench`. Cases, peers, parity, timing and memory, shared by bench/ and tests/."""
