"""From YAML files to plain, checked dataclasses; imports no torch."""
