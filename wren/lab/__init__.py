"""The lab: probes and comparisons of architectures, with tuning effort, seeds and error bars."""
