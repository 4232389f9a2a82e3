//! Hosts as network namespaces: library, end-to-end tests, whole-path benchmarks, the demo.
