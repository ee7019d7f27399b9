"""What bench/efficiency.py and bench/gpu.py measure, one file each."""
