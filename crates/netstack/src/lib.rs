//! Packets to flows: user-space TCP over any packet source.
