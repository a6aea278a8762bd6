"""What a GPU is asked for: every path of the CUDA backend, Triton, and the peers, against the copy bandwidth.

`bench/gpu.sh` runs all of it in one call; `fastloss bench --gpu` runs the part that measures.
"""
