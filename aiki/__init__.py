"""Aiki: tasks and durable workflows for Python teams that run RabbitMQ and MySQL."""

__version__ = "0.1.0"
