"""The operator's console: pages without a build step, one live stream, and the samples behind its plots."""
