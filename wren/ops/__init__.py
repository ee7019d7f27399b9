"""What mixers compute: in each folder naive.py is the truth, and what stands beside it is the speed."""
