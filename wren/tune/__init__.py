"""Fine-tuning: conversations and preference pairs in, a model that answers out, by the loop that pretrains."""
