"""Plugins that come with the core: the rule ``mean`` and the transport ``memory``."""
