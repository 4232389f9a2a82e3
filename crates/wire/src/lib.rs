//! Bytes to messages and back: the tunnel protocol, the device protocol, and their state machines.
