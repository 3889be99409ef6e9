"""What models share: the interface and registry, blocks, settings, positions."""
