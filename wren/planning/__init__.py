"""What a model needs before anything runs: settings that fit a machine, and how long and how dear training would be."""
