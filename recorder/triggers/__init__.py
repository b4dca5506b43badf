"""Triggers: what makes the recorder keep an incident, without anybody looking."""
