"""The wire format: generated messages in `saekit.v1`, numpy conversions in `saekit.codec`."""
