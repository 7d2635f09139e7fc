"""Text retrieval: encoders, judged texts, measurements and pages."""
