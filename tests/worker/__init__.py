"""The worker, with real processes over both brokers and a hand-fed orchestrator."""
