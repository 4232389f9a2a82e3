//! Dials out from the private network: configuration, registration, dial, local metrics.
