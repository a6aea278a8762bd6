"""Benchmarks: `fastloss bench`. Jobs, parity, targets and tables; cases, peers and clocks are in fastloss.measure."""
