"""The same gateway over several machines: the pool's workers as replicas of Ray Serve. Only this package imports
ray."""
