"""What wider serving gives: more workers, more instances, and what the queueing model says of both."""
