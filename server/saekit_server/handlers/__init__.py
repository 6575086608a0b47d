"""One method per RPC, free of any transport: messages in, messages out, domain errors raised."""
