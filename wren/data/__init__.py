"""Text in, token shards out: sources, the preparation that can be resumed, shards and manifest, the training loader."""
