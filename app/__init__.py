"""HTTP and orchestration: the gateway process. Knows no tensor."""

VERSION = "0.1.0"
