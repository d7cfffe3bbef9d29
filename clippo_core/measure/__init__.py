"""What a finished run is measured by beside its benchmarks: geometry, lengths of texts."""
