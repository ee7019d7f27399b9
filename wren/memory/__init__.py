"""What training keeps in memory: less of the activations, and how many bytes each part takes."""
