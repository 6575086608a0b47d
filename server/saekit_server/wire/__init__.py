"""Wire messages to domain objects and back, once each, at the edge."""
