"""The models: one package per family, and the contract between them and the gateway.

Importing any part of it switches off the telemetry of libraries (`backends.privacy`), before one of them is imported.
"""

from backends.privacy import disable_telemetry

disable_telemetry()
