"""Feed-forward layers, one file each; every file holds its frozen `Config` with `.build(dim)`."""
