"""Events from logs that people already have, Kafka and Redis Streams, into a store of users."""
