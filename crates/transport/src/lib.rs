//! QUIC and HTTP/2 endpoints, TLS set-up, the splice and drain; knows nothing of who may.
